from __future__ import annotations

import builtins
import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.histogram import Histogram
from agent.telemetry.writer import Telemetry
from agent.types import Phase, PowerSample, State
from tests.unit.cli.daemon import CPU, PLACEMENT, Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A node that recorded the last ten minutes, and one thing two hours ago."""
    folders = Folders(tmp_path)
    now = time.time() - 7200
    telemetry = Telemetry(folders.state / "telemetry.db", 8, clock=lambda: now)
    telemetry.event("old", "long ago")
    histogram = Histogram()
    for milliseconds in range(1, 101):
        histogram.add(milliseconds / 1e3)
    for minute in range(10):
        now = time.time() - 600 + 60 * minute
        telemetry.latency("digits", "1.0.0", CPU, histogram, 1)
        telemetry.latency("kws", "1.0.0", CPU, histogram, 0)
        telemetry.power([PowerSample(now, "package", 2.0 + minute)])
    telemetry.deployment("digits", "1.0.0", "0" * 64, State.IN_PROGRESS, Phase.VERIFYING, "")
    telemetry.deployment("digits", "1.0.0", "0" * 64, State.SUCCEEDED, None, "")
    telemetry.deployment("kws", "1.0.0", "0" * 64, State.IN_PROGRESS, Phase.SOAKING, "")
    telemetry.placement(PLACEMENT)
    for number in range(30):
        telemetry.event("worker-crashed", f"signal {number}", "digits")
    telemetry.close()
    return folders


@pytest.fixture
def overlaid(folders: Folders, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*args: str) -> tuple[int, str, str]:
        code = main(["telemetry", *args, "--config", str(folders.config)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_tables(overlaid: Any) -> None:
    code, out, _ = overlaid()
    assert code == 0
    digits = next(line for line in out.splitlines() if line.startswith("digits")).split()
    assert digits[:8] == ["digits", "1.0.0", "int8", "on", "cpu", "(onnxruntime)", "1000", "10"]
    assert float(digits[8]) == pytest.approx(50, rel=0.1) and float(digits[9]) == pytest.approx(100, rel=0.1)
    assert "6.5" in next(line for line in out.splitlines() if line.startswith("package"))
    deployments = out[out.index("\ndeployments") : out.index("\nplacements")]
    assert "SUCCEEDED" in deployments and "VERIFYING" not in deployments and "SOAKING" in deployments
    assert "newest 20 of 30" in out and "signal 29" in out and "signal 9" not in out


def test_since_and_model(overlaid: Any) -> None:
    assert "newest 20 of 31" in overlaid("--since", "3h")[1]
    out = overlaid("--model", "kws")[1]
    assert "kws" in out and "digits" not in out
    assert "latency: none" in overlaid("--model", "unknown")[1]


def test_json_has_everything(overlaid: Any) -> None:
    told = json.loads(overlaid("--json")[1])
    assert told["until"] - told["since"] == pytest.approx(3600)
    assert {name: len(told[name]) for name in ("latency", "power", "deployments", "placements", "events")} == {
        "latency": 20, "power": 10, "deployments": 3, "placements": 1, "events": 30,
    }  # fmt: skip
    assert [row["model"] for row in told["summary"]["latency"]] == ["digits", "kws"]
    assert told["summary"]["power"][0]["max_w"] == 11.0


def test_csv_is_the_latency_table(overlaid: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(overlaid("--csv", "--model", "digits")[1])))
    assert len(rows) == 10
    assert rows[0]["requests"] == "100" and float(rows[0]["p99_ms"]) == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot(overlaid: Any, tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"out.{suffix}"
    code, out, _ = overlaid("--plot", str(path))
    assert code == 0 and str(path) in out
    assert path.read_bytes().startswith(start)


def test_the_plot_names_what_it_shows(overlaid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import rcParams

    monkeypatch.setitem(rcParams, "svg.fonttype", "none")
    path = tmp_path / "out.svg"
    overlaid("--plot", str(path))
    drawn = path.read_text()
    for text in (
        "digits p99",
        "kws p50",
        "package (measured)",
        "latency, ms",
        "power, W",
        "digits 1.0.0 SUCCEEDED",
    ):
        assert text in drawn


def test_plots_that_cannot_be_made_are_named(overlaid: Any, tmp_path: Path) -> None:
    for args, part in (
        (("--plot", str(tmp_path / "out.xyz")), "cannot write"),
        (("--plot", str(tmp_path / "none" / "out.png")), "cannot write"),
        (("--since", "1s", "--plot", str(tmp_path / "out.png")), "longer --since"),
    ):
        code, _, err = overlaid(*args)
        assert code == 2 and "UsageError" in err and part in err


def test_plot_without_matplotlib_names_the_extra(
    overlaid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    code, _, err = overlaid("--plot", str(tmp_path / "out.png"))
    assert code == 1 and "pip install 'overlaid[plot]'" in err


def test_no_telemetry_and_damaged_telemetry_are_named(overlaid: Any, folders: Folders) -> None:
    path = folders.state / "telemetry.db"
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xa5" * (len(data) - 8192))
    code, _, err = overlaid("--json")
    assert code == 1 and "TelemetryError" in err
    path.unlink()
    code, _, err = overlaid()
    assert code == 1 and "no telemetry at" in err


@pytest.mark.parametrize("args", [("--since", "1"), ("--since", "-1h"), ("--json", "--csv")])
def test_wrong_usage(overlaid: Any, args: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        overlaid(*args)
    assert caught.value.code == 2
