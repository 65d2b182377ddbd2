"""``overlaid fleet prepare``, as it is typed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent.cli import main
from agent.cli.bar import steady
from tests.unit.fleet.prepare.nets import convolutional, save, save_data


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    net, data = save(tmp_path / "net.onnx", convolutional()), save_data(tmp_path / "data.npz")
    return [
        "fleet",
        "prepare",
        str(net),
        "--calibrate",
        str(data),
        "-o",
        str(tmp_path / "out"),
        "--boards",
        "",
    ]


def test_tables_for_people(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for words in (
        "int8-qlinear",
        "chosen",
        "sensitivity, the worst 4 of 4 layers",
        "where npu runs",
        "flatters",
    ):
        assert words in text
    assert f"overlaid fleet pack {tmp_path / 'out'}" in text


def test_json_is_the_report(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "report.json").read_text())


def test_refusals_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("overlaid: ModelLoadError: net.onnx is no ONNX file")
    assert main([*arguments, "--targets", ","]) == 2


def test_ctrl_c_leaves_no_folder(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.fleet.prepare.folder._model_toml", interrupt)
    before = sorted(tmp_path.iterdir())
    assert main(arguments) == 130
    assert f"interrupted; {tmp_path / 'out'} was not made" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_bar_repeats_what_it_was_told_last() -> None:
    told: list[tuple[str, float]] = []
    with steady(lambda text, share: told.append((text, share))) as progress:
        progress("long work", 0.5)
        deadline = time.monotonic() + 10
        while len(told) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert told[-3:] == [("long work", 0.5)] * 3
