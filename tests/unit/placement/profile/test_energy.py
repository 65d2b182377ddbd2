from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.profile import Bracket, beside, energy_per_run, energy_sigma, holding_watts, load_joules
from agent.types import Candidate, Measurement


def test_idle_brackets_that_disagree_make_energy_missing() -> None:
    assert energy_per_run(Bracket(3, 1), Bracket(5, 1), Bracket(3, 1), 10) == pytest.approx(0.2)
    assert energy_per_run(Bracket(1, 1), Bracket(5, 1), Bracket(9, 1), 10) is None
    assert energy_per_run(Bracket(3, 1), None, Bracket(3, 1), 10) is None
    assert energy_per_run(Bracket(3, 1), Bracket(5, 1), Bracket(3, 1), 0) is None


def test_holding_power_is_not_told_from_a_drift_as_large() -> None:
    assert holding_watts(Bracket(3.0, 1), Bracket(3.2, 1), 3.0) == 0.0
    assert holding_watts(Bracket(3.0, 1), Bracket(3.2, 1), 2.5) == pytest.approx(0.6)
    assert holding_watts(None, Bracket(3.2, 1), 3.0) is None
    assert holding_watts(Bracket(3.0, 1), Bracket(3.2, 1), None) is None


def test_the_bootstrap_finds_the_standard_error() -> None:
    """Of the mean of ten windows with a deviation of 0.5 W: about 0.5 / sqrt(10) W."""
    found = []
    for seed in range(40):
        rng = random.Random(seed)
        windows = tuple(rng.gauss(5.0, 0.5) for _ in range(10))
        sigma = energy_sigma(
            Bracket(3, 1, (3.0, 3.0)), Bracket(5, 2, windows), Bracket(3, 1, (3.0, 3.0)), 100
        )
        assert sigma is not None
        found.append(sigma)
    assert sum(found) / len(found) == pytest.approx(0.5 / 10**0.5 * 2 / 100, rel=0.15)


def test_the_interval_covers_the_truth_as_often_as_it_should() -> None:
    hits = 0
    for seed in range(300):
        rng = random.Random(seed)
        run = tuple(rng.gauss(5.0, 0.6) for _ in range(10))
        before, after = (tuple(rng.gauss(3.0, 0.3) for _ in range(9)) for _ in range(2))
        brackets = (
            Bracket(sum(before) / 9, 0.2, before), Bracket(sum(run) / 10, 1.0, run), Bracket(sum(after) / 9, 0.2, after)
        )  # fmt: skip
        joules, sigma = energy_per_run(*brackets, 100), energy_sigma(*brackets, 100)
        assert joules is not None and sigma is not None
        hits += abs(joules - 0.02) <= 1.96 * sigma
    assert 0.86 < hits / 300 < 0.98


def test_without_windows_there_is_no_interval() -> None:
    still = Bracket(3, 1)
    assert energy_sigma(still, Bracket(5, 1), still, 10) is None
    assert energy_sigma(still, None, still, 10) is None
    assert energy_sigma(still, Bracket(5, 1, (4.0, 6.0)), still, 0) is None
    drifting = energy_sigma(Bracket(2.5, 1), Bracket(5, 1, (5.0, 5.0)), Bracket(3.5, 1), 10)
    assert drifting is not None and drifting > 0.01  # the brackets stand for their windows


@given(st.lists(st.floats(0, 100), min_size=2, max_size=10), st.integers(1, 1000))
def test_the_same_figures_give_the_same_interval(windows: list[float], runs: int) -> None:
    brackets = Bracket(3, 1, (3.0, 3.1)), Bracket(5, 1, tuple(windows)), Bracket(3, 1, (2.9, 3.0))
    sigma = energy_sigma(*brackets, runs)
    assert sigma == energy_sigma(*brackets, runs)
    assert sigma is not None and 0 <= sigma <= 101 / runs


def test_what_loading_cost() -> None:
    assert load_joules(Bracket(7.0, 2.0, (7.0, 7.0)), 3.0) == pytest.approx(8.0)
    assert load_joules(Bracket(2.9, 2.0, (3.0, 2.8)), 3.0) == 0.0  # the rest had been busy
    assert load_joules(Bracket(7.0, 2.0), 3.0) is None  # too short for the meters
    assert load_joules(None, 3.0) is None
    assert load_joules(Bracket(7.0, 2.0, (7.0, 7.0)), None) is None
    assert load_joules(Bracket(1e9, 2.0, (7.0, 7.0)), 3.0) is None


def test_a_worker_that_is_loaded_meanwhile_is_counted_out() -> None:
    def on(device: str, holding_w: float, rest_w: float) -> Measurement:
        candidate = Candidate("int8", "onnxruntime", device)
        return Measurement(candidate, 9, 1, 1, 1, 0.9, 0.1, 1, None, 0.002, "measured", holding_w, rest_w)

    running = on("fpga", 0.2, 3.0)
    # The FPGA is configured for the running worker already: a second one seems to hold nothing.
    assert beside(on("fpga", 0.0, 3.2), running) == on("fpga", 0.2, 3.0)
    assert beside(on("cpu", 0.0, 3.2), running) == on("cpu", 0.0, 3.0)
    assert beside(on("cpu", 0.0, 3.2), None) == on("cpu", 0.0, 3.2)
    assert beside(on("cpu", 0.1, 3.0), on("cpu", 0.0, 3.0)) == on("cpu", 0.1, 3.0)
