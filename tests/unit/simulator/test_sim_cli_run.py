"""``overlaid sim boards`` and ``overlaid sim run`` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.errors import RuntimeUnavailable
from simulator.profile import BOARDS, board_names
from simulator.scenario.files import EXAMPLES

MODELS = Path(__file__).parents[3] / "models"
SCENARIO = f"""
board = "jetson-orin-nano"
duration_s = 40
power_cap_w = 20.0
[[models]]
folder = "{MODELS}/camera-digits"
budget = {{ latency_p99_ms = 100.0, rate_hz = 20.0 }}
[[models]]
folder = "{MODELS}/digits"
budget = {{ latency_p99_ms = 20.0, rate_hz = 5.0 }}
arrivals = "regular"
[[caps]]
at_s = 30
[[faults]]
kind = "device-lost"
target = "cpu"
at_s = 10
for_s = 5
[[faults]]
kind = "thermal-step"
value = 10
at_s = 20
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    return path


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["sim", *args])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_boards_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "boards")
    assert all(name in out for name in board_names())
    for name in board_names():
        code, out, _ = run(capsys, "boards", name)
        assert code == 0 and str(BOARDS / f"{name}.toml") in out and f"sim:{name}" in out
    assert (
        "npu" in run(capsys, "boards", "pynq-z2")[1]
        and "at 99 C" in run(capsys, "boards", "jetson-orin-nano")[1]
    )


def test_boards_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "boards", "--json")[1])
    assert [board["name"] for board in told] == board_names()
    one = json.loads(run(capsys, "boards", "kv260", "--json")[1])
    assert one["board"] == "sim:kv260" and {device["id"] for device in one["devices"]} == {"cpu", "fpga"}


def test_an_unknown_board_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "boards", "pynq-z9")
    assert code == 1 and all(name in err for name in board_names())


def test_a_scenario_as_tables(capsys: pytest.CaptureFixture[str], scenario: Path) -> None:
    code, out, err = run(capsys, "run", str(scenario))
    assert code == 0 and err == ""
    assert "no model was computed" in out and "cpu is lost" in out and "cap 20 W -> none" in out
    assert (
        "DeviceLost" in out
        and "mean" in out
        and "throttled for 0 s" in out
        and "simulated hours a second" in out
    )


def test_a_scenario_as_json_is_the_same_each_time(capsys: pytest.CaptureFixture[str], scenario: Path) -> None:
    first, second = (json.loads(run(capsys, "run", str(scenario), "--json")[1]) for _ in range(2))
    assert first.pop("speed")["wall_s"] > 0 and second.pop("speed")
    assert first == second
    camera, digits = first["models"]
    assert digits["requests"] == 200 and camera["requests"] > 700
    assert first["switches"] >= 1 and camera["failures"]["DeviceLost"] > 0
    assert len(first["series"]["cap_w"]) == 40 and first["series"]["cap_w"][-1] is None


@pytest.mark.parametrize("name", ["out.png", "out.svg"])
def test_a_scenario_as_a_picture(capsys: pytest.CaptureFixture[str], scenario: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    picture = scenario.parent / name
    code, out, _ = run(capsys, "run", str(scenario), "--plot", str(picture))
    assert code == 0 and f"wrote {picture}" in out
    data = picture.read_bytes()
    assert len(data) > 20_000
    assert data.startswith(b"\x89PNG") if name.endswith("png") else b"<svg" in data


@pytest.mark.parametrize("name", ["out.xyz", "none/out.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str], scenario: Path, name: str
) -> None:
    pytest.importorskip("matplotlib")
    code, out, err = run(capsys, "run", str(scenario), "--plot", str(scenario.parent / name))
    assert code == 2 and out == "" and "cannot write" in err


def test_without_matplotlib_the_error_says_what_to_install(
    capsys: pytest.CaptureFixture[str], scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    code, _, err = run(capsys, "run", str(scenario), "--plot", str(scenario.parent / "out.png"))
    assert code == 1 and RuntimeUnavailable.__name__ in err and "pip install 'overlaid[plot]'" in err


def test_a_broken_scenario_is_refused_by_its_key(capsys: pytest.CaptureFixture[str], scenario: Path) -> None:
    scenario.write_text(SCENARIO.replace("duration_s", "length_s"))
    code, _, err = run(capsys, "run", str(scenario))
    assert code == 1 and "length_s: unknown key" in err and str(scenario) in err


def example(capsys: pytest.CaptureFixture[str], name: str) -> Any:
    return json.loads(run(capsys, "run", str(EXAMPLES / f"{name}.toml"), "--json")[1])


def test_the_camera_node_shows_what_it_promises(capsys: pytest.CaptureFixture[str]) -> None:
    told = example(capsys, "camera-node")
    assert told["switches"] == 4 and told["heat"]["throttled_s"] > 0
    assert [d["new"]["device"] for d in told["decisions"]] == ["gpu", "cpu", "gpu", "cpu", "gpu"]
    assert 0 < told["models"][0]["failed"] < 20


def test_the_pynq_bridges_on_its_cpu_while_the_overlay_does_not_load(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = example(capsys, "pynq-overlay")
    served = [d["new"] and d["new"]["device"] for d in told["decisions"] if d["old"] != d["new"]]
    assert served == ["fpga", None, "cpu", "fpga"]  # None: without power nothing is left
    assert "until fpga is back" in told["decisions"][2]["reason"]


def test_a_refused_model_and_many_faults_can_be_drawn(
    capsys: pytest.CaptureFixture[str], scenario: Path
) -> None:
    pytest.importorskip("matplotlib")
    faults = "".join(f'[[faults]]\nkind = "disk-full"\nat_s = {i / 10}\nfor_s = 9\n' for i in range(50))
    scenario.write_text(SCENARIO.replace("latency_p99_ms = 100.0", "latency_p99_ms = 0.01") + faults)
    picture = scenario.parent / "out.png"
    code, out, _ = run(capsys, "run", str(scenario), "--plot", str(picture))
    assert code == 0 and "camera-digits was refused: no candidate meets the budget" in out
    assert picture.stat().st_size > 20_000


def test_a_scenario_in_real_time(capsys: pytest.CaptureFixture[str], scenario: Path) -> None:
    scenario.write_text(
        f'board = "rpi5"\nduration_s = 0.5\n[[models]]\nfolder = "{MODELS}/digits"\n'
        'budget = { latency_p99_ms = 20.0, rate_hz = 20.0 }\narrivals = "regular"\n'
    )
    told = json.loads(run(capsys, "run", str(scenario), "--clock", "real", "--json")[1])
    assert told["clock"] == "real" and told["models"][0]["answered"] == 10
