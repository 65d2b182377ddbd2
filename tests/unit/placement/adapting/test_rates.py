from __future__ import annotations

import itertools
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.adapting.rates import Load


def poisson(draw: Random, rate_hz: float) -> int:
    time, count = draw.expovariate(rate_hz), 0
    while time < 1.0:
        time, count = time + draw.expovariate(rate_hz), count + 1
    return count


def test_a_promise_that_does_not_hold_is_soon_forgotten() -> None:
    load = Load.promised(100.0, 0.0)
    assert load.planned_hz == 100.0
    for second in range(1, 5):
        load = load.counted(2, float(second))
    assert load.rate_hz < 25 and load.planned_hz < 40


def test_a_steady_rate_plans_nothing_anew() -> None:
    draw = Random(3)
    load = Load.promised(20.0, 0.0)
    planned = []
    for second in range(1, 601):
        load = load.counted(poisson(draw, 20.0), float(second))
        planned.append(load.planned_hz)
    assert all(each == pytest.approx(20.0, rel=0.25) for each in planned[30:])
    assert sum(a != b for a, b in itertools.pairwise(planned)) < 60


def test_another_rate_is_noticed_within_seconds() -> None:
    draw = Random(4)
    load = Load.promised(2.0, 0.0)
    for second in range(1, 101):
        load = load.counted(poisson(draw, 2.0), float(second))
    for second in range(101, 106):
        load = load.counted(20, float(second))
    assert load.planned_hz > 14


def test_silence_is_a_rate_of_nothing() -> None:
    load = Load.promised(10.0, 0.0)
    for second in range(1, 200):
        load = load.counted(0, float(second))
    assert load.rate_hz == pytest.approx(0.0, abs=0.01) and load.planned_hz < 1.0


def test_no_time_and_no_count_tell_nothing() -> None:
    load = Load.promised(10.0, 5.0)
    assert load.counted(3, 5.0) is load and load.counted(3, 4.0) is load and load.counted(-1, 6.0) is load


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(1e-3, 1e3)), max_size=60), st.floats(0, 1e6))
def test_it_is_never_less_than_nothing(counts: list[tuple[int, float]], promised: float) -> None:
    load, time = Load.promised(promised, 0.0), 0.0
    for count, seconds in counts:
        time += seconds
        load = load.counted(count, time)
        for each in (load.rate_hz, load.quick_hz, load.planned_hz, load.doubted.planned_hz):
            assert math.isfinite(each) and each >= 0


def test_what_is_surely_asked_is_less_than_what_seems_to_be() -> None:
    load = Load.promised(10.0, 0.0)
    for second in range(1, 4):
        load = load.counted(16, float(second))  # by chance, or more than was promised
    assert load.surely_hz < 11.0 < load.planned_hz
    for second in range(4, 60):
        load = load.counted(16, float(second))
    assert 13.0 < load.surely_hz < 16.0
