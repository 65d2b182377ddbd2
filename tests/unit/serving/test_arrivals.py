"""Poisson arrivals, and what waiting for the run before adds to a latency."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.arrivals import MAX_ARRIVALS, arrivals, latencies


def test_the_rate_is_met_on_average() -> None:
    moments = arrivals(100.0, 50.0, 1)
    assert len(moments) == pytest.approx(5000, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert min(gaps) < 0.001 and max(gaps) > 0.1  # not evenly spaced
    assert arrivals(100.0, 50.0, 1) == moments != arrivals(100.0, 50.0, 2)


def test_few_or_no_arrivals_and_never_too_many() -> None:
    assert arrivals(0.1, 0.001, 1) == []
    assert arrivals(0.0, 100.0, 1) == []
    assert len(arrivals(1e6, 1e6, 1)) == MAX_ARRIVALS


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan")])
def test_no_rate(rate_hz: float) -> None:
    with pytest.raises(ValueError, match="brings no requests"):
        arrivals(1.0, rate_hz, 1)


def test_who_comes_during_a_run_waits_for_its_end() -> None:
    assert latencies([(0.0, 0.3), (0.1, 0.3), (1.0, 0.2)]) == pytest.approx([0.3, 0.5, 0.2])
    assert latencies([]) == []


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=30))
def test_a_latency_is_at_least_the_run_and_at_most_all_runs_so_far(runs: list[tuple[float, float]]) -> None:
    runs.sort()
    done = 0.0
    for (_, run_s), latency in zip(runs, latencies(runs), strict=True):
        done += run_s
        assert run_s - 1e-9 <= latency <= done + 1e-9
