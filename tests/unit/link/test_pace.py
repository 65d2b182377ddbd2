"""A limit on what is asked for: kept over every stretch of time, never for longer than it must."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.link.pace import BURST_S, DEBT_S, Pace

BLOCK = 256 * 1024


@settings(deadline=None)
@given(rate=st.floats(1000.0, 1e8), seed=st.integers())
def test_no_stretch_of_time_holds_more_than_the_rate_allows(rate: float, seed: int) -> None:
    luck, pace, now = random.Random(seed), Pace(rate), 50.0
    asked: list[tuple[float, int]] = []
    for _ in range(60):
        if pace.room(now) > 0:
            nbytes = luck.randrange(1, BLOCK)
            pace.ask(nbytes, now)
            asked.append((now, nbytes))
            assert pace.wait(now) >= 0.0
        else:
            assert pace.wait(now) > 0.0
            now += pace.wait(now) * luck.choice([0.5, 1.001, 3.0])
        now += luck.choice([0.0, 0.0, 0.01, 2.0])
    for first, (begin, _) in enumerate(asked):
        total = 0
        for end, nbytes in asked[first:]:
            total += nbytes
            assert total <= rate * (end - begin + BURST_S) + BLOCK + 1


@given(rate=st.floats(1000.0, 1e8), nbytes=st.integers(1, BLOCK))
def test_after_the_wait_there_is_room(rate: float, nbytes: int) -> None:
    pace = Pace(rate)
    while pace.room(0.0) > 0:
        pace.ask(nbytes + int(rate), 0.0)
    assert pace.room(pace.wait(0.0) + 1e-6) > 0


@given(rate=st.floats(1000.0, 1e8), passing=st.lists(st.integers(0, 1 << 30), max_size=20))
def test_what_passes_by_counts_but_holds_up_for_seconds_only(rate: float, passing: list[int]) -> None:
    pace = Pace(rate)
    for nbytes in passing:
        pace.pass_by(nbytes, 0.0)
    assert pace.room(0.0) <= max(rate * BURST_S - sum(passing), -DEBT_S * rate) + 1e-3
    assert pace.wait(0.0) <= DEBT_S + 1.0 / rate + 1e-6


def test_what_was_asked_for_is_not_forgiven_by_what_passes_by() -> None:
    pace = Pace(1000.0)
    pace.ask(50_000, 0.0)
    pace.pass_by(1_000_000, 0.0)
    assert pace.wait(0.0) == pytest.approx(49.0, abs=0.01)


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    pace = Pace(1000.0)
    pace.ask(2000, 10.0)
    assert pace.room(5.0) == pace.room(10.0) == -1000.0
    assert pace.room(11.0) == 0.0


def test_without_a_limit_there_is_always_room() -> None:
    pace = Pace(None)
    pace.ask(1 << 40, 0.0)
    pace.pass_by(1 << 40, 0.0)
    assert pace.wait(0.0) == 0.0 and pace.room(0.0) == float("inf")
    with pytest.raises(ValueError, match="more than 0"):
        Pace(0.0)
