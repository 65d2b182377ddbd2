from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.histogram import Histogram
from agent.placement.profile.refine import as_expected, at_profiled_speed, p99_within, refined
from agent.types import Candidate, Measurement

MEASURED = Measurement(Candidate("v", "b", "cpu"), 60, 1.0, 1.0, 1.3, 0.45, 0.1, 10.0, None)


def histogram(times_ms: list[float]) -> Histogram:
    found = Histogram()
    for ms in times_ms:
        found.add(ms / 1e3)
    return found


def times(count: int, slowest_ms: float, share: float, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [slowest_ms if rng.random() < share else rng.uniform(0.95, 1.05) for _ in range(count)]


def test_many_runs_in_service_make_the_bound_surer() -> None:
    got = refined(MEASURED, histogram(times(2000, 3.0, 0.02)))
    assert 3.0 <= got.p99_ms <= 3.3 and got.confidence >= 0.99 and got.runs == 2000
    assert (got.mean_ms, got.p50_ms) == (MEASURED.mean_ms, MEASURED.p50_ms)
    lower = refined(MEASURED, histogram(times(2000, 3.0, 0.002)))  # one in five hundred is no 99th percentile
    assert 1.0 <= lower.p99_ms <= 1.15


def test_a_bound_that_the_buckets_do_not_tell_apart_stays_and_is_surer() -> None:
    got = refined(replace(MEASURED, p99_ms=1.05), histogram([1.04] * 1000))
    assert got.p99_ms == 1.05 and got.confidence >= 0.99


def test_fewer_runs_or_a_less_sure_bound_change_nothing() -> None:
    few = histogram(times(458, 3.0, 0.5))
    assert refined(MEASURED, few) is MEASURED
    many = replace(MEASURED, runs=2000, confidence=0.99)
    assert refined(many, histogram(times(1500, 3.0, 0.5))) is many
    assert refined(MEASURED, Histogram()) is MEASURED


def test_what_was_disturbed_is_not_as_expected() -> None:
    usual = histogram([1.0] * 100)
    assert as_expected(usual, MEASURED, 1.0)
    assert not as_expected(usual, MEASURED, 1.2)  # a device that is slow now runs slower
    assert as_expected(histogram([1.2] * 100), MEASURED, 1.2)
    assert not as_expected(histogram([1.0] * 80 + [3.0] * 20), MEASURED, 1.0)
    for slowdown in (0.0, -1.0, float("nan")):
        assert not as_expected(usual, MEASURED, slowdown)
    assert not as_expected(Histogram(), MEASURED, 1.0)


@given(st.floats(0.3, 5.0), st.lists(st.floats(0.1, 100.0), min_size=1, max_size=50))
def test_scaling_is_never_too_short_and_at_most_a_bucket_too_long(
    slowdown: float, all_ms: list[float]
) -> None:
    slow = histogram([ms * slowdown for ms in all_ms])
    scaled = at_profiled_speed(slow, slowdown)
    assert scaled.total == len(all_ms)
    assert scaled.seconds == pytest.approx(sum(all_ms) / 1e3)
    longest = scaled.percentile_ms(1.0)
    assert longest is not None
    assert max(all_ms) * 0.999 <= longest <= max(all_ms) * 2 ** (2 / 8) * 1.001


@given(st.integers(0, 10_000), st.integers(459, 3000))
def test_the_bound_is_that_of_the_samples(seed: int, count: int) -> None:
    from agent.placement.stats import p99_upper

    rng = random.Random(seed)
    found = [rng.lognormvariate(0.0, 0.5) for _ in range(count)]
    low, high, confidence = p99_within(histogram(found))
    exact, sure = p99_upper(found)
    assert low * 0.999 <= exact <= high * 1.001 and confidence == sure


def test_no_runs_give_no_bound() -> None:
    with pytest.raises(ValueError, match="no samples"):
        p99_within(Histogram())
