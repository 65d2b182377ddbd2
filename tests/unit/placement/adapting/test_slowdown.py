from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.adapting.slowdown import LEAST, MOST, Slowdown


def test_a_step_is_followed_at_once_and_noise_is_not() -> None:
    draw = Random(1)
    slowdown = Slowdown()
    for _ in range(50):
        slowdown = slowdown.observed(draw.gauss(1.0, 0.02), 20)
    assert slowdown.mean == pytest.approx(1.0, abs=0.05)
    assert slowdown.observed(3.0, 20).mean > 2.7
    assert slowdown.observed(3.0, 20).observed(3.0, 20).mean == pytest.approx(3.0, abs=0.05)


def test_one_run_counts_less_than_many() -> None:
    assert 1.0 < Slowdown().observed(5.0, 1).mean < Slowdown().observed(5.0, 100).mean < 5.0


def test_what_nobody_sees_is_forgotten_and_becomes_uncertain() -> None:
    slow = Slowdown().observed(3.0, 1000)
    for _ in range(10):
        slow = slow.observed(3.0, 1000)
    soon, late = slow.relaxed(1.0), slow.relaxed(60.0)
    assert slow.mean > soon.mean > late.mean > 1.0 and late.mean == pytest.approx(1.0, abs=0.01)
    assert slow.relaxed(0.0) is slow
    assert slow.relaxed(3.0).relaxed(4.0).mean == pytest.approx(slow.relaxed(7.0).mean)
    assert late.observed(2.0, 10).mean == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize("z", [math.nan, math.inf, -1.0, 0.0, LEAST / 2, MOST * 2])
def test_nonsense_tells_nothing(z: float) -> None:
    slowdown = Slowdown().observed(2.0, 10)
    assert slowdown.observed(z, 10) is slowdown
    assert slowdown.observed(1.0, 0) is slowdown and slowdown.observed(1.0, -3) is slowdown


@given(st.lists(st.tuples(st.floats(LEAST, MOST), st.integers(1, 10_000)), max_size=50))
def test_it_stays_among_what_was_seen(seen: list[tuple[float, int]]) -> None:
    slowdown = Slowdown()
    for z, runs in seen:
        slowdown = slowdown.observed(z, runs)
        assert 0 < slowdown.gain <= 1 and slowdown.variance > 0
    values = [1.0, *(z for z, _ in seen)]
    assert min(values) * 0.999 <= slowdown.mean <= max(values) * 1.001
