"""Scenario files: what is allowed, and what an error names."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import ConfigError
from simulator.scenario.files import EXAMPLES, read_scenario
from simulator.scenario.workload import read_workloads

MODELS = Path(__file__).parents[3] / "models"
MODEL = f"""
[[models]]
folder = "{MODELS}/digits"
budget = {{ latency_p99_ms = 20.0, rate_hz = 10.0 }}
"""
HEAD = 'board = "pynq-z2"\nduration_s = 60\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(text)
    return path


def fault(kind: str, **values: object) -> str:
    lines = [
        f"{key} = {value!r}".replace("'", '"') for key, value in {"kind": kind, "at_s": 1, **values}.items()
    ]
    return "\n".join(["[[faults]]", *lines, ""])


def rate(text: str) -> str:
    return MODEL + f"rate = {text}\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "board: Field required"),
        (HEAD, "models: Field required"),
        (HEAD + "models = []", "models"),
        (HEAD + "speed = 3\n" + MODEL, "speed: unknown key"),
        (HEAD + MODEL + "size = 3", "models.0.size: unknown key"),
        ('board = "pynq-z9"\nduration_s = 60\n' + MODEL, "jetson-orin-nano"),
        ('board = "pynq-z2"\nduration_s = 0\n' + MODEL, "duration_s"),
        ('board = "pynq-z2"\nduration_s = 604801\n' + MODEL, "duration_s"),
        ('board = "pynq-z2"\nduration_s = nan\n' + MODEL, "duration_s"),
        ('board = "pynq-z2"\nduration_s = "60"\n' + MODEL, "duration_s"),
        (HEAD + "seed = -1\n" + MODEL, "seed"),
        (HEAD + "power_cap_w = -1\n" + MODEL, "power_cap_w"),
        (HEAD + "power_cap_w = inf\n" + MODEL, "power_cap_w"),
        (HEAD + MODEL.replace("20.0", "-20.0"), "latency_p99_ms must be between"),
        (HEAD + MODEL.replace("rate_hz", "rates_hz"), "rates_hz: unknown"),
        (HEAD + MODEL + 'arrivals = "bursty"', "arrivals"),
        (HEAD + rate("[]"), "rate"),
        (HEAD + rate("[[1, 5]]"), "must rise, from 0 on"),
        (HEAD + rate("[[0, 5], [9, 3], [9, 4]]"), "must rise"),
        (HEAD + rate("[[0, -5]]"), "rate"),
        (HEAD + rate("[[0, nan]]"), "rate"),
        (HEAD + rate("[[0, 5], [70, 4]]"), "rate: 70 s is not before the end"),
        (
            'board = "pynq-z2"\nduration_s = 600000\n' + MODEL.replace("rate_hz = 10", "rate_hz = 1000"),
            "requests",
        ),
        (HEAD + MODEL + "[[caps]]\nat_s = 5\nwatts = 0", "caps.0.watts"),
        (HEAD + MODEL + "[[caps]]\nat_s = 60\nwatts = 5", "caps: 60 s is not before the end"),
        (
            HEAD + MODEL + "[[caps]]\nat_s = 9\nwatts = 5\n[[caps]]\nat_s = 8\nwatts = 5",
            "times of caps must rise",
        ),
        (HEAD + MODEL + fault("earthquake"), "there is no fault 'earthquake'"),
        (HEAD + MODEL + fault("device-lost"), "names the device"),
        (HEAD + MODEL + fault("device-lost", target="gpu"), "it has cpu, fpga"),
        (HEAD + MODEL + fault("sensor-missing", target="ina3221"), "ina260"),
        (HEAD + MODEL + fault("thermal-step", value=1000), "-60 to 100"),
        (HEAD + MODEL + fault("thermal-step", value=10, for_s=0), "for_s"),
        (HEAD + MODEL + fault("thermal-step", value=10, at_s=100), "faults: 100 s is not before the end"),
        ("board = ", "not valid TOML"),
        ("board = " + "[" * 5000, "too deep"),
    ],
)
def test_bad_scenarios_are_refused_by_key(tmp_path: Path, text: str, named: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_scenario(path)
    assert named in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_scenario_says_where_examples_lie(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(EXAMPLES)):
        read_scenario(tmp_path / "none.toml")


@pytest.mark.parametrize("folder", ["nowhere", str(MODELS), "a\\u0000b"])
def test_a_folder_without_a_model_is_named(tmp_path: Path, folder: str) -> None:
    scenario = read_scenario(written(tmp_path, HEAD + MODEL.replace(f"{MODELS}/digits", folder)))
    with pytest.raises(ConfigError, match=r"models\.folder: .*model\.toml"):
        read_workloads(scenario, tmp_path)


def test_one_model_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two of the name 'digits'"):
        read_workloads(read_scenario(written(tmp_path, HEAD + MODEL + MODEL)), tmp_path)


def test_model_folders_are_relative_to_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(MODELS / "digits")
    scenario = read_scenario(written(tmp_path, HEAD + MODEL.replace(f"{MODELS}/digits", "digits")))
    (workload,) = read_workloads(scenario, tmp_path)
    assert workload.name == "digits" and set(workload.work) == {"fp32", "int8", "npu"}
    assert workload.work["int8"].precision == "int8"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_can_be_run(path: Path) -> None:
    scenario = read_scenario(path)
    assert read_workloads(scenario, path.parent)
