"""The rate limit lets through what is within the rate, and hardly more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.app.bindings.rate import RateLimit


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_never_more_than_the_rate_and_two(rate_hz: float, gaps: list[float]) -> None:
    limit, now, let = RateLimit(rate_hz), 0.0, []
    for gap in gaps:
        now += gap
        if limit.allows(now):
            let.append(now)
    assert let
    for first in range(len(let)):
        for last in range(first, len(let)):
            assert last - first + 1 <= (let[last] - let[first]) * rate_hz * (1 + 1e-9) + 2 + 1e-6


@given(st.lists(st.floats(0, 0.99), min_size=1, max_size=200))
def test_a_sensor_at_the_rate_with_jitter_loses_nothing(jitter: list[float]) -> None:
    limit = RateLimit(10.0)
    assert all(limit.allows((index + early) * 0.1) for index, early in enumerate(jitter))


def test_without_a_rate_everything_passes() -> None:
    limit = RateLimit(None)
    assert all(limit.allows(1.0) for _ in range(1000))


def test_a_pause_is_not_saved_up() -> None:
    limit = RateLimit(1.0)
    limit.allows(0.0)
    assert [limit.allows(1000.0) for _ in range(4)] == [True, True, False, False]
