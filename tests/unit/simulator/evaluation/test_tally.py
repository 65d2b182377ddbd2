"""What is told of requests by second."""

from __future__ import annotations

import pytest

from agent.types import Candidate
from simulator.evaluation.contract import at
from simulator.evaluation.tally import Tally, chance_w, longest, recovered_s
from simulator.scenario.node import SHED

CPU = Candidate("int8", "onnxruntime", "cpu")


def tally(bad: set[int], seconds: int = 30, rate: int = 20) -> Tally:
    """``bad``: seconds whose requests are late."""
    made = Tally(10.0, float(seconds))
    for second in range(seconds):
        for i in range(rate):
            made.done(CPU, second + i / rate, 0.02 if second in bad else 0.01, 0.5)
    return made


def test_each_request_is_counted_once() -> None:
    made = tally({3}, seconds=5, rate=4)
    made.failed(1.0, "DeviceLost")
    made.failed(2.0, SHED)
    assert (made.answered, made.late, made.failures, made.shed) == (20, 4, 1, 1)
    assert made.bad[:5] == [0, 1, 1, 4, 0]


def test_a_recovery_ends_when_calm_seconds_begin() -> None:
    over = [False] * 30
    assert recovered_s([tally({10, 11, 13})], over, 10.0, 30.0) == 4.0
    assert recovered_s([tally(set())], over, 10.0, 30.0) == 0.0
    assert recovered_s([tally(set(range(10, 30)))], over, 10.0, 30.0) is None
    assert recovered_s([tally(set()), tally({12})], over, 10.0, 30.0) == 3.0  # of all models
    over[10:13] = [True] * 3
    assert recovered_s([tally(set())], over, 10.0, 30.0) == 3.0  # the cap counts too
    assert recovered_s([tally({10})], [False] * 30, 10.0, 14.0) is None  # too short to tell


def test_who_sheds_all_has_not_recovered() -> None:
    made = Tally(10.0, 30.0)
    for second in range(10, 20):
        made.failed(float(second), SHED)
    assert recovered_s([made], [False] * 30, 10.0, 20.0) is None
    assert recovered_s([made], [False] * 30, 10.0, 30.0) == 10.0
    assert made.late + made.failures == 0  # it is told apart in all other figures


def test_watts_by_chance() -> None:
    made = tally(set(), rate=20)
    assert chance_w(made, 3, 20.0) == 0.0
    assert chance_w(made, 3, 10.0) == pytest.approx(5.0)  # ten requests more than expected, 0.5 J each
    assert chance_w(Tally(10.0, 5.0), 3, 10.0) == 0.0


def test_the_longest_stretch() -> None:
    assert longest([]) == longest([False]) == 0
    assert longest([True, True, False, True]) == 2


def test_the_mean_of_a_rate_over_a_second() -> None:
    rates = [(0.0, 10.0), (2.5, 20.0)]
    assert [at(rates, second) for second in range(4)] == [10.0, 10.0, 15.0, 20.0]
