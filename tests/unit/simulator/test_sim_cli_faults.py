"""``overlaid sim inject``, ``faults``, ``clear`` and ``show`` as they are typed; ``sim`` among the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import main
from simulator.cell import SharedCell
from simulator.clock import RealClock
from simulator.faultfile import FaultFile
from simulator.faults import KINDS
from simulator.profile import load_profile

MODELS = Path(__file__).parents[3] / "models"
Sim = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def config(runtime: Path) -> Path:
    path = runtime.parent / "agent.toml"
    path.write_text(f'[node]\nboard = "sim:jetson-orin-nano"\n[paths]\nruntime = "{runtime}"\n')
    return path


@pytest.fixture
def sim(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sim:
    """Run a command against the node: (exit code, stdout, stderr)."""

    def run(*args: str) -> tuple[int, str, str]:
        code = main(["sim", *args, "--config", str(config)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def faults_of(sim: Sim) -> list[dict[str, object]]:
    told = json.loads(sim("faults", "--json")[1])
    assert told["board"] == "jetson-orin-nano"
    return list(told["faults"])


def scenario(folder: Path, board: str = "jetson-orin-nano", faults: str = "") -> Path:
    path = folder / "scenario.toml"
    path.write_text(
        f'board = "{board}"\nseed = 7\nduration_s = 100\n[[models]]\nfolder = "{MODELS}/digits"\n'
        f"budget = {{ latency_p99_ms = 9.0, rate_hz = 1.0 }}\n{faults}"
    )
    return path


def test_faults_come_are_active_and_are_cleared(sim: Sim, runtime: Path) -> None:
    code, out, _ = sim("inject", "device-lost", "gpu", "--for", "2m")
    assert code == 0 and "device-lost gpu, active for 120 s more" in out and "overlaid sim clear" in out
    sim("inject", "thermal-step", "--value", "30C", "--after", "1m")
    first, second = faults_of(sim)
    assert (first["kind"], first["target"], first["state"], first["value"]) == (
        "device-lost",
        "gpu",
        "active",
        None,
    )
    assert (second["state"], second["value"], second["unit"], second["left_s"]) == ("coming", 30.0, "C", None)
    assert 50 < second["starts_in_s"] <= 60  # type: ignore[operator]
    assert "active for" in sim("faults")[1] and "until it is cleared" in sim("faults")[1]
    cell = SharedCell(runtime, load_profile("jetson-orin-nano"), RealClock())
    assert cell.conditions().lost == (False, True)
    assert sim("clear")[0] == 0
    assert faults_of(sim) == [] and cell.conditions().lost == (False, False)
    assert "nothing is injected" in sim("faults")[1]


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (("co-tenant", "cpu", "--value", "40%"), 0.4),
        (("co-tenant", "cpu", "--value", "0.4"), 0.4),
        (("throttle", "gpu", "--value", "50 %"), 0.5),
        (("power-cap", "--value", "4500mW"), 4.5),
        (("power-cap", "--value", "5w"), 5.0),
        (("thermal-step", "--value", "-10"), -10.0),
        (("thermal-step", "--value=-10°C"), -10.0),
        (("disk-slow", "--value", "500kB/s"), 0.5),
        (("clock-jump", "--value", "2h"), 7200.0),
        (("disk-full",), None),
        (("sensor-missing", "VDD_IN"), None),
    ],
)
def test_values_have_the_units_of_their_kind(sim: Sim, args: tuple[str, ...], value: float | None) -> None:
    code, _, err = sim("inject", *args)
    assert code == 0, err
    (told,) = faults_of(sim)
    assert told["value"] == pytest.approx(value) if value is not None else told["value"] is None


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), "KIND or --scenario"),
        (("earthquake",), "kinds are thermal-step"),
        (("device-lost",), "names the device"),
        (("device-lost", "fpga"), "overlaid sim boards jetson-orin-nano"),
        (("sensor-missing", "ina260"), "VDD_IN"),
        (("thermal-step", "cpu", "--value", "3"), "acts on the board"),
        (("thermal-step",), "-60 to 100 C"),
        (("thermal-step", "--value", "5W"), "with C"),
        (("thermal-step", "--value", "hot"), "not a number"),
        (("throttle", "cpu", "--value", "half"), "not a number; a plain one, or with %"),
        (("device-lost", "gpu", "--for", "0"), "--for: Input should be greater than 0"),
        (("device-lost", "gpu", "--after", "1e10"), "--after: Input should be less than"),
        (("thermal-step", "--value", "nan"), "not a number"),
        (("thermal-step", "--value", "1000"), "-60 to 100"),
        (("disk-full", "--value", "3"), "takes no value"),
        (("disk-full", "--for", "0"), "greater than 0"),
        (("disk-full", "--scenario", "x.toml"), "give it alone"),
        (("--scenario", "x.toml", "--after", "3"), "give it alone"),
    ],
)
def test_what_cannot_be_injected_says_why(sim: Sim, args: tuple[str, ...], named: str) -> None:
    code, out, err = sim("inject", *args)
    assert code == 2 and out == "" and named in err
    assert faults_of(sim) == []


@pytest.mark.parametrize("option", ["--after", "--for"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "soon", "3kg"])
def test_times_must_be_times(sim: Sim, option: str, value: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        sim("inject", "disk-full", f"{option}={value}")


def test_a_scenarios_faults_with_its_seed(sim: Sim, runtime: Path) -> None:
    faults = '[[faults]]\nkind = "disk-full"\n[[faults]]\nkind = "device-lost"\ntarget = "gpu"\nat_s = 50\nfor_s = 20\n'
    code, out, err = sim("inject", "--scenario", str(scenario(runtime, faults=faults)), "--json")
    assert code == 0, err
    assert [(each["kind"], each["state"], each["lasts_s"]) for each in json.loads(out)] == [
        ("disk-full", "active", None), ("device-lost", "coming", pytest.approx(20.0)),
    ]  # fmt: skip
    assert FaultFile(runtime, load_profile("jetson-orin-nano")).read()[0] == 7
    sim("inject", "thermal-step", "--value", "5")
    assert FaultFile(runtime, load_profile("jetson-orin-nano")).read()[0] == 7 and len(faults_of(sim)) == 3


def test_a_scenario_for_another_board_or_without_faults_is_refused(sim: Sim, runtime: Path) -> None:
    other = scenario(runtime, "pynq-z2", '[[faults]]\nkind = "disk-full"\n')
    code, _, err = sim("inject", "--scenario", str(other))
    assert code == 2 and "pynq-z2" in err and 'board = "sim:pynq-z2"' in err
    assert sim("inject", "--scenario", str(scenario(runtime)))[0] == 2
    assert sim("inject", "--scenario", str(runtime / "none.toml"))[0] == 1


@pytest.mark.parametrize("command", [("inject", "disk-full"), ("faults",), ("clear",), ("show",)])
def test_a_node_without_a_simulated_board_is_told_how_to_get_one(
    sim: Sim, config: Path, command: tuple[str, ...]
) -> None:
    config.write_text("[node]\nname = 'a'\n")
    code, _, err = sim(*command)
    assert code == 2 and "'local'" in err and "sim:pynq-z2" in err and "[node]" in err


@pytest.mark.parametrize("command", [("inject", "disk-full"), ("faults",), ("clear",), ("show",)])
def test_a_node_that_never_ran_is_to_be_started(sim: Sim, runtime: Path, command: tuple[str, ...]) -> None:
    runtime.rmdir()
    code, _, err = sim(*command)
    assert code == 1 and str(runtime) in err and "overlaid run" in err


def test_a_broken_fault_file_is_named_and_clear_mends_it(sim: Sim, runtime: Path) -> None:
    (runtime / "board.faults.json").write_text("{")
    for command in (("faults",), ("inject", "disk-full")):
        code, _, err = sim(*command)
        assert code == 1 and "board.faults.json" in err
    assert sim("clear")[0] == 0 and faults_of(sim) == []


def test_show_tells_watts_heat_and_faults(sim: Sim, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.cli.show.WINDOW_S", 0.05)
    cell = SharedCell(runtime, load_profile("jetson-orin-nano"), RealClock())
    cell.hold(1)
    sim("inject", "throttle", "gpu", "--value", "50%")
    sim("inject", "device-lost", "cpu", "--after", "1h")
    told = json.loads(sim("show", "--json")[1])
    cpu, gpu = told["devices"]
    profile = load_profile("jetson-orin-nano").device("gpu")
    assert gpu["models"] == 1 and gpu["watts"] == pytest.approx(profile.idle_w + profile.holding_w)
    assert gpu["clock_share"] == 0.5 and cpu["clock_share"] == 1.0 and not cpu["lost"]
    assert told["watts"] == pytest.approx(told["base_watts"] + cpu["watts"] + gpu["watts"])
    assert told["zones"][0]["throttle_level"] == 0 and told["zones"][0]["celsius"] > 30
    assert [fault["text"] for fault in told["faults"]] == ["throttle gpu 0.5 of its clock"]
    out = sim("show")[1]
    assert "jetson-orin-nano (simulated)" in out and "gpu" in out and "level 0 of 1" in out


def test_the_help_of_inject_lists_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["sim", "inject", "--help"])
    out = capsys.readouterr().out
    assert (
        all(kind in out and KINDS[kind].text in out for kind in KINDS)
        and "example: overlaid sim inject" in out
    )


def test_sim_is_listed_and_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "boards without hardware" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["simulate"])


@pytest.mark.parametrize("argv", [["status"], ["--help"]])
def test_other_commands_do_not_pay_for_the_simulator(tmp_path: Path, argv: list[str]) -> None:
    code = (
        "import sys, contextlib\nfrom agent.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({argv!r})\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('simulator', 'pydantic', 'numpy')])"
    )
    environment = {"OVERLAID_PATHS_STATE": str(tmp_path), "OVERLAID_PATHS_RUNTIME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
