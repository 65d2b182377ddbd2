from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.profile import OpenLoop, Profile
from agent.placement.profile.cache import Key, lacks_energy, opens_anew, trouble_with, worth_keeping
from agent.types import BackendInfo, BoardInfo, Candidate, DeviceInfo, Measurement

CPU = DeviceInfo("cpu", "cpu", "Cortex-A53", (BackendInfo("onnxruntime", "1.20", ("onnx",)),))
BOARD = BoardInfo("kv260", False, (CPU,), power_mode="performance")
CANDIDATE = Candidate("int8", "onnxruntime", "cpu")
MEASURED = Measurement(
    CANDIDATE, 500, 1.1, 1.0, 1.5, 0.99, 0.2, 40.0, 0.98, 0.002, "measured", 0.1, 3.0, joules_sigma=1e-4,
    load_j=0.5, parts=(("cpu", 0.4),), measured=1e9,
)  # fmt: skip
PROFILE = Profile(MEASURED, OpenLoop(10.0, 5, 1.4, 0.05))


def key_of(board: BoardInfo = BOARD, digest: str = "a" * 64, threads: int = 1) -> Key:
    return Key.of(digest, CANDIDATE, board, threads)


def test_a_profile_is_kept_under_all_that_it_depends_on() -> None:
    newer = replace(CPU, backends=(BackendInfo("onnxruntime", "1.21", ("onnx",)),))
    keys = {
        key_of(),
        key_of(digest="b" * 64),
        key_of(threads=4),
        key_of(replace(BOARD, name="zcu104")),
        key_of(replace(BOARD, power_mode="powersave")),
        key_of(replace(BOARD, devices=(replace(CPU, name="Cortex-A78"),))),
        key_of(replace(BOARD, devices=(replace(CPU, note="twice as fast"),))),
        key_of(replace(BOARD, devices=(newer,))),
    }
    assert len(keys) == len({key.text() for key in keys}) == 8
    assert key_of() == key_of(replace(BOARD, meters=("vdd",), problems=("no gpu",)))


def test_a_key_of_what_the_board_does_not_have() -> None:
    for candidate in (Candidate("int8", "onnxruntime", "gpu"), Candidate("int8", "litert", "cpu")):
        with pytest.raises(KeyError):
            Key.of("a" * 64, candidate, BOARD, 1)


@given(st.lists(st.text(), min_size=7, max_size=7), st.integers(1, 256))
def test_a_key_survives_as_text(names: list[str], threads: int) -> None:
    key = Key(*names, threads)  # type: ignore[call-arg, arg-type]
    assert Key.parse(key.text()) == key


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[1,2,3,4,5,6,7,8]", '["a"]', "nonsense"]
    + [
        f'["a","b","c","d","e","f","g",{threads}]'
        for threads in ('"h"', "null", "Infinity", "1.5", "true", "[]")
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a profile's key|Expecting value"):
        Key.parse(text)


def test_a_sensible_profile_is_believed() -> None:
    assert trouble_with(PROFILE, CANDIDATE) == ""
    assert trouble_with(Profile(MEASURED), CANDIDATE) == ""
    missing = replace(MEASURED, joules=None, holding_w=None, joules_sigma=None, energy="missing")
    assert trouble_with(Profile(missing), CANDIDATE) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"mean_ms": math.nan}, {"mean_ms": -1.0}, {"p50_ms": 0.0}, {"p50_ms": math.nan}, {"p99_ms": 0.5},
        {"p99_ms": math.inf}, {"runs": 0}, {"confidence": 1.5}, {"confidence": math.nan}, {"load_s": -0.1},
        {"memory_mb": math.inf}, {"joules": -0.001}, {"joules": math.nan}, {"joules": None}, {"holding_w": None},
        {"holding_w": -1.0}, {"rest_w": -1.0}, {"joules_sigma": math.nan}, {"load_j": 1e30}, {"energy": "guessed"},
        {"parts": (("cpu", -1.0),)}, {"measured": math.nan}, {"candidate": Candidate("int8", "onnxruntime", "gpu")},
    ],
)  # fmt: skip
def test_nonsense_is_not_believed(changes: dict[str, Any]) -> None:
    assert trouble_with(Profile(replace(MEASURED, **changes)), CANDIDATE)


@pytest.mark.parametrize("changes", [{"p99_ms": math.nan}, {"p99_ms": -1.0}, {"rate_hz": math.inf}])
def test_a_nonsensical_open_loop_is_not_believed(changes: dict[str, Any]) -> None:
    assert PROFILE.open is not None
    assert trouble_with(replace(PROFILE, open=replace(PROFILE.open, **changes)), CANDIDATE)


def test_a_clock_that_was_ahead_when_it_was_measured_does_no_harm() -> None:
    assert trouble_with(Profile(replace(MEASURED, measured=1e12)), CANDIDATE) == ""


def test_energy_is_missed_only_where_it_can_be_measured_now() -> None:
    missing = replace(MEASURED, energy="missing")
    assert lacks_energy(missing, True, 2e9)
    assert not lacks_energy(missing, False, 2e9) and not lacks_energy(MEASURED, True, 2e9)


def test_a_handful_of_runs_without_the_energy_that_meters_could_tell_is_not_worth_keeping() -> None:
    four, five = (replace(MEASURED, runs=runs, energy="missing") for runs in (4, 5))
    assert not worth_keeping(four, True)
    assert worth_keeping(five, True) and worth_keeping(four, False)
    assert worth_keeping(replace(four, energy="measured"), True)


def test_energy_that_could_not_be_measured_is_not_tried_again_at_once() -> None:
    missing = replace(MEASURED, energy="missing")
    assert not lacks_energy(missing, True, missing.measured + 60)
    assert lacks_energy(missing, True, missing.measured - 1e6)  # a clock that was ahead then


@pytest.mark.parametrize(
    ("rate_hz", "anew"), [(10.0, False), (10.4, False), (12.0, True), (5.0, False), (1.0, True), (0.0, True)]
)
def test_another_rate_needs_another_open_loop(rate_hz: float, anew: bool) -> None:
    assert opens_anew(PROFILE.open, rate_hz) is anew
    assert opens_anew(None, rate_hz)


def test_a_zero_rate_stays_a_zero_rate() -> None:
    assert not opens_anew(OpenLoop(0.0, 5, 1.4, 0.05), 0.0)
    assert opens_anew(OpenLoop(0.0, 5, 1.4, 0.05), 10.0)
