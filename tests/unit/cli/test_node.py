from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.control import snapshot
from agent.errors import GoldenMismatch, UsageError
from agent.types import BackendInfo, Binding, BindingStatus, DeviceInfo, to_jsonable
from tests.unit.cli.daemon import BOARD, PLACEMENT, SNAPSHOT, Folders, daemon

BUDGET = ("--latency-p99", "20ms", "--rate", "10/s")


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a table by their first word."""
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_status_tells_all_about_the_node(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"snapshot": SNAPSHOT}):
        code, out, _ = overlaid("status")
    assert code == 0
    for part in (
        "plant/cam-7",
        "pid 42",
        "up 15 min",
        "broker:8883, connected",
        "4 applied, 5 seen",
        "127.0.0.1:8000",
    ):
        assert part in out
    assert "3.14 W, cap 8 W" in out
    found = rows(out)
    assert found["digits"][1:] == [
        "1.0.0",
        "SUCCEEDED",
        "int8",
        "on",
        "cpu",
        "0.251",
        "1.75",
        "1500",
        "2",
        "1",
        "-",
    ]
    assert found["kws"][1:6] == ["2.0.0", "(1.0.0", "runs)", "DOWNLOADING", "40%"]


def test_status_shows_how_bindings_do(overlaid: Any, folders: Folders) -> None:
    runs = BindingStatus(Binding("s/a", "digits", "o/a"), "RUNNING", "", 50, 20, 27, 2, 1, 0.8123, 4.0)
    waits = BindingStatus(Binding("s/b", "kws", "o/b"), "WAITING", "no model kws")
    with daemon(folders, {"snapshot": replace(SNAPSHOT, bindings=(runs, waits))}):
        _, out, _ = overlaid("status")
        _, document, _ = overlaid("status", "--json")
    assert rows(out)["s/a"][1:] == ["digits", "o/a", "RUNNING", "50", "20", "27", "2", "1", "0.812", "-"]
    assert "WAITING" in out and out.rstrip().endswith("no model kws")
    assert json.loads(document)["bindings"][0]["binding"]["output_topic"] == "o/a"
    with daemon(folders, {"snapshot": replace(SNAPSHOT, models=(), bindings=(waits,))}):
        assert "no model kws" in overlaid("status")[1]


def test_texts_from_outside_do_not_steer_the_terminal(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"snapshot": SNAPSHOT}):
        _, out, _ = overlaid("status")
    assert "\x1b" not in out and "refused ?[31mby name" in out


def test_status_as_json_is_the_snapshot(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"snapshot": SNAPSHOT}):
        code, out, _ = overlaid("status", "--json")
    told = json.loads(out)
    assert code == 0 and told["daemon"] == "running" and told["age_s"] >= 0
    assert to_jsonable(SNAPSHOT).items() <= told.items()


def test_a_model_whose_worker_is_away_is_not_shown_as_well(overlaid: Any, folders: Folders) -> None:
    away = replace(SNAPSHOT, models=(replace(SNAPSHOT.models[0], ready=False),))
    with daemon(folders, {"snapshot": away}):
        assert "SUCCEEDED, not ready" in overlaid("status")[1]


def test_status_before_the_board_is_probed_and_without_models(overlaid: Any, folders: Folders) -> None:
    fresh = replace(SNAPSHOT, models=(), board=None, broker="none", power_w=None, power_cap_w=None, http=None)
    with daemon(folders, {"snapshot": fresh}):
        code, out, _ = overlaid("status")
    assert code == 0
    assert "being probed" in out and "overlaid deploy" in out and "not known, no cap" in out


@pytest.mark.parametrize("command", ["status", "models"])
def test_with_the_daemon_down_the_last_snapshot_is_shown_with_its_age(
    overlaid: Any, folders: Folders, command: str
) -> None:
    snapshot.write(folders.state / "snapshot.json", replace(SNAPSHOT, time=time.time() - 7300))
    code, out, _ = overlaid(command)
    assert code == 3
    assert out.startswith("THE DAEMON IS DOWN") and "2 h 1 min old" in out and "digits" in out
    code, out, _ = overlaid(command, "--json")
    told = json.loads(out)
    assert code == 3 and told["daemon"] == "down" and 7300 <= told["age_s"] < 7400


def test_with_the_daemon_down_and_no_snapshot(overlaid: Any) -> None:
    code, out, err = overlaid("status")
    assert code == 3 and out == ""
    assert "DaemonNotRunning" in err and "overlaid run" in err and "not run here yet" in err


def test_a_damaged_snapshot_is_named(overlaid: Any, folders: Folders) -> None:
    (folders.state / "snapshot.json").write_text('{"time": 1')
    code, _, err = overlaid("status")
    assert code == 3 and "damaged" in err


def test_a_snapshot_from_the_future_does_not_break_status(overlaid: Any, folders: Folders) -> None:
    snapshot.write(folders.state / "snapshot.json", replace(SNAPSHOT, time=time.time() + 1e6, started=1e300))
    assert overlaid("status")[0] == 3


def test_watch_refreshes_until_interrupted(
    overlaid: Any, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("agent.cli.node.time.sleep", sleep)
    with daemon(folders, {"snapshot": SNAPSHOT}) as seen:
        code, out, _ = overlaid("status", "--watch")
    assert code == 130
    assert [request["op"] for request in seen] == ["snapshot", "snapshot"]
    assert out.count("plant/cam-7") == 2


def test_models_show_budget_and_place(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"snapshot": SNAPSHOT}):
        code, out, _ = overlaid("models")
    assert code == 0
    assert "p99 20 ms at 10/s, 0.5 W, accuracy >= 0.97, priority 3" in out
    assert "int8 on cpu (onnxruntime)" in out and "abababababab" in out


def test_what_is_built_is_shown_with_the_models(overlaid: Any, folders: Folders) -> None:
    text = "building the TensorRT engine of digits, 30 s so far"
    building = replace(SNAPSHOT, models=(replace(SNAPSHOT.models[0], why=text), SNAPSHOT.models[1]))
    for command in ("models", "status"):
        with daemon(folders, {"snapshot": building}):
            code, out, _ = overlaid(command)
        assert code == 0
        assert text in " ".join(out.split())


def test_devices_of_the_daemon(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"devices": BOARD}):
        code, out, _ = overlaid("devices")
        as_json = json.loads(overlaid("devices", "--json")[1])
    assert code == 0 and "not usable: no power sensor" in out
    assert ["cpu", "onnxruntime", "onnx", "1.20"] in [line.split() for line in out.splitlines()]
    assert as_json == to_jsonable(BOARD)


def test_devices_shows_each_route_and_each_problem_with_its_next_step(
    overlaid: Any, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = (BackendInfo("cuda", "1.23", ("onnx",)), BackendInfo("opencl", "OpenCL 3.0 CUDA", ("npu",)))
    gpu = DeviceInfo("gpu", "gpu", "NVIDIA H200", routes, memory_mb=150_000, note="a note")
    problems = (
        "gpu: tensorrt: libnvinfer.so.10 cannot be found; install TensorRT: pip install tensorrt",
        "gpu: litert: " + "word " * 60 + "the next step",
    )
    board = replace(BOARD, devices=(*BOARD.devices, gpu), problems=problems)
    monkeypatch.setenv("COLUMNS", "80")
    with daemon(folders, {"devices": board}):
        code, out, _ = overlaid("devices")
    lines = out.splitlines()
    assert code == 0 and all(len(line) <= 80 for line in lines)
    words = [line.split() for line in lines]
    assert ["gpu", "cuda", "onnx", "1.23"] in words and "gpu: a note" in lines
    assert ["gpu", "opencl", "npu", "OpenCL", "3.0", "CUDA"] in words
    shown = " ".join(out.split())
    assert all(f"not usable: {' '.join(problem.split())}" in shown for problem in problems)


def test_devices_without_a_daemon_are_probed(
    overlaid: Any, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def probe(name: str, _folder: Path) -> Any:
        asked.append(name)
        return BOARD

    monkeypatch.setattr("agent.devices.probe.probe_board", probe)
    code, out, _ = overlaid("devices", "--json")
    assert code == 0 and json.loads(out)["name"] == "local" and asked == ["local"]


def test_deploy_shows_phases_and_the_choice(overlaid: Any, folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    phases = [
        {"progress": {"phase": phase, "share": None}} for phase in (None, "PROFILING", "PROFILING", "SOAKING")
    ]
    done = {"ok": {"state": "SUCCEEDED", "placement": to_jsonable(PLACEMENT)}}
    options = (*BUDGET, "--power", "0.5W", "--instances", "3")
    with daemon(folders, {"deploy": [*phases, done]}) as seen:
        code, out, err = overlaid("deploy", str(tmp_path / "package"), *options)
    assert code == 0
    assert [line.split(": ")[1] for line in err.splitlines()] == ["QUEUED", "PROFILING", "SOAKING"]
    assert "digits 1.0.0: SUCCEEDED, int8 on cpu (onnxruntime)" in out and "least energy" in out
    budget = {"latency_p99_ms": 20.0, "rate_hz": 10.0, "power_w": 0.5, "min_accuracy": None, "priority": 0}
    package = str(tmp_path / "package")
    assert seen == [{"op": "deploy", "package": package, "budget": budget, "instances": 3}]


def test_a_relative_package_reaches_the_daemon_as_an_absolute_path(
    overlaid: Any, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package").mkdir()
    monkeypatch.chdir(tmp_path)
    with daemon(folders, {"deploy": [{"ok": {"state": "SUCCEEDED", "placement": None}}]}) as seen:
        assert overlaid("deploy", "package", *BUDGET, "--json")[0] == 0
    assert seen[0]["package"] == str(tmp_path / "package")


def test_a_deploy_that_fails_exits_with_1_and_the_reason(
    overlaid: Any, folders: Folders, tmp_path: Path
) -> None:
    with daemon(folders, {"deploy": GoldenMismatch("FAILED: output differs by 0.5")}):
        code, _, err = overlaid("deploy", str(tmp_path), *BUDGET)
    assert code == 1 and "GoldenMismatch: FAILED: output differs by 0.5" in err


@pytest.mark.parametrize("number", ["0", "17", "two", "-1"])
def test_a_deploy_with_a_wrong_number_of_instances(
    overlaid: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    with pytest.raises(SystemExit):
        overlaid("deploy", str(tmp_path), *BUDGET, f"--instances={number}")
    assert "from 1 to 16" in capsys.readouterr().err


def test_a_deploy_without_package_daemon_or_sane_budget(overlaid: Any, tmp_path: Path) -> None:
    code, _, err = overlaid("deploy", str(tmp_path / "none"), *BUDGET)
    assert code == 2 and "overlaid fleet pack" in err
    code, _, err = overlaid("deploy", str(tmp_path), *BUDGET)
    assert code == 3 and "DaemonNotRunning" in err
    code, _, err = overlaid("deploy", str(tmp_path), *BUDGET, "--priority", "10")
    assert code == 2 and "--priority must be between 0 and 9" in err
    code, _, err = overlaid("deploy", str(tmp_path), "--latency-p99", "0ms", "--rate", "1/s")
    assert code == 2 and "--latency-p99 in ms must be between 0.001" in err


def test_an_interrupted_deploy_says_that_the_daemon_goes_on(
    overlaid: Any, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.cli.progress._Lines.step", interrupt)
    with daemon(folders, {"deploy": [{"progress": {"phase": None, "share": None}}]}):
        code, _, err = overlaid("deploy", str(tmp_path), *BUDGET)
    assert code == 130 and err == "interrupted; the daemon goes on with the deployment: overlaid status\n"


@pytest.mark.parametrize(("order", "done"), [("undeploy", "removed"), ("restart", "restarted")])
def test_orders_reach_the_daemon(overlaid: Any, folders: Folders, order: str, done: str) -> None:
    with daemon(folders, {order: {}}) as seen:
        code, out, _ = overlaid(order, "digits")
        assert json.loads(overlaid(order, "digits", "--json")[1]) == {done: "digits"}
    assert code == 0 and out == f"digits is {done}\n" and seen == [{"op": order, "model": "digits"}] * 2
    with daemon(folders, {order: UsageError("digits is not deployed")}):
        code, _, err = overlaid(order, "digits")
    assert code == 2 and "not deployed" in err


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--config", str(tmp_path / "none.toml")]) == 1
    assert "ConfigError" in capsys.readouterr().err


def test_run_starts_the_daemon_with_the_config_and_logs_by_room(
    overlaid: Any, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: Any) -> int:
        logging.getLogger("agent.link.client").warning("no broker")
        logging.getLogger("app").debug("detail")
        return 0 if config.paths.state == folders.state else 9

    monkeypatch.setattr("agent.app.run", run)
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        code, _, err = overlaid("run")
        _, _, verbose = overlaid("run", "--verbose")
    finally:
        logging.getLogger().handlers[:], logging.getLogger().level = before
    assert code == 0
    assert err.rstrip().endswith("WARNING link no broker") and "detail" not in err
    assert "DEBUG app detail" in verbose


def test_status_imports_nothing_heavy(folders: Folders) -> None:
    """What makes it fast; the time itself is a figure of tests.bench.footprint."""
    snapshot.write(folders.state / "snapshot.json", SNAPSHOT)
    code = (
        "import sys; from agent.cli import main; code = main(sys.argv[1:]);"
        "print([name for name in ('pydantic', 'rich', 'asyncio', 'sqlite3', 'cryptography') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "status", "--config", str(folders.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_the_system_refuses_comes_with_a_way_out(overlaid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied", "/root/x")

    monkeypatch.setattr("agent.cli.node.find_folders", refuse)
    code, _, err = overlaid("status")
    assert code == 1 and "PermissionError: /root/x: Permission denied; this user" in err
    assert "run it as the owner" in err


COMMANDS = (
    "run",
    "status",
    "devices",
    "models",
    "explain",
    "bench",
    "deploy",
    "undeploy",
    "restart",
    "telemetry",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"example: overlaid {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [("status",), ("telemetry",), ("deploy", "x" * 300, *BUDGET)])
def test_paths_that_the_system_refuses_are_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[paths]\nstate = "{tmp_path}/{"x" * 300}"\nruntime = "{tmp_path}"\n')
    assert main([*command, "--config", str(config)]) in {1, 3}
    assert "too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text"), [("--rate", "-1/s"), ("--power", "-.5W"), ("--latency-p99", "-20ms")]
)
def test_a_negative_quantity_is_refused_as_one(
    option: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["deploy", str(tmp_path), option, text])
    assert f"argument {option}: '{text}' is not a" in capsys.readouterr().err
