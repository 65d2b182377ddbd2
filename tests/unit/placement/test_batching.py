"""Whether a run should answer several requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.batching import MIN_GAIN, longest_s, with_batches, worth_measuring
from agent.types import Budget, Candidate, Measurement, TensorSpec

BUDGET = Budget(latency_p99_ms=20.0, rate_hz=10.0)
ALONE = Measurement(Candidate("v", "b", "cpu"), 100, 1.0, 1.0, 1.5, 0.99, 0.1, 9.0, None)


def times(**by_size: float) -> dict[int, list[float]]:
    """``b2=0.003``: runs for two requests take 3 ms."""
    return {int(name[1:]): [seconds] * 20 for name, seconds in by_size.items()}


def test_the_smallest_batch_that_brings_about_as_much_as_the_best_is_taken() -> None:
    best = with_batches(ALONE, times(b1=0.001, b2=0.0014, b4=0.0021, b8=0.0041), BUDGET)
    assert best.max_batch == 4 and best.batch_gain == pytest.approx(4 * 1.1 / 2.5)


def test_little_gain_is_remembered_but_not_used() -> None:
    little = with_batches(ALONE, times(b1=0.001, b2=0.00175, b4=0.0037), BUDGET)
    assert little.max_batch == 1 and little.batch_gain == pytest.approx(2 * 1.1 / 1.95)


def test_a_run_that_is_short_beside_what_a_request_costs_is_left_alone() -> None:
    tiny = with_batches(ALONE, times(b1=0.00002, b2=0.000022, b4=0.000025, b8=0.00003), BUDGET)
    assert tiny.max_batch == 1 and tiny.batch_gain is not None and tiny.batch_gain < MIN_GAIN


def test_a_batch_must_leave_time_to_wait_for_another_one() -> None:
    by_size = times(b1=0.004, b2=0.006, b4=0.0099, b8=0.012)
    assert with_batches(ALONE, by_size, BUDGET).max_batch == 4
    assert with_batches(ALONE, by_size, Budget(13.0, 1.0)).max_batch == 2
    uneven = {1: [0.004] * 20, 2: [0.006] * 19 + [0.011]}
    assert with_batches(ALONE, uneven, BUDGET).max_batch == 1


def test_what_was_not_measured_changes_nothing() -> None:
    assert with_batches(ALONE, {}, BUDGET) is ALONE
    assert with_batches(ALONE, times(b1=0.001), BUDGET) is ALONE


@pytest.mark.parametrize(
    ("inputs", "outputs", "p50_ms", "worth"),
    [
        ((-1, 4), (-1, 2), 1.0, True),
        ((1, 4), (-1, 2), 1.0, False),
        ((-1, 4), (1, 2), 1.0, False),
        ((-1, 4), (), 1.0, False),
        ((-1, 4), (-1, 2), 10.1, False),
    ],
)
def test_only_models_with_free_first_dimensions_and_time_are_measured(
    inputs: tuple[int, ...], outputs: tuple[int, ...], p50_ms: float, worth: bool
) -> None:
    measured = Measurement(ALONE.candidate, 9, p50_ms, p50_ms, p50_ms, 0.9, 0.1, 9.0, None)
    specs = [TensorSpec("x", "FP32", inputs)], [TensorSpec("y", "FP32", outputs)]
    assert worth_measuring(*specs, BUDGET, measured) == worth


@given(
    st.dictionaries(
        st.sampled_from([1, 2, 4, 8]), st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30), max_size=4
    )
)
def test_a_batch_always_pays_and_is_never_too_long(by_size: dict[int, list[float]]) -> None:
    chosen = with_batches(ALONE, by_size, BUDGET)
    if chosen.max_batch > 1:
        assert chosen.batch_gain is not None and chosen.batch_gain >= MIN_GAIN
        assert sorted(by_size[chosen.max_batch])[len(by_size[chosen.max_batch]) // 2] <= longest_s(BUDGET)
        assert chosen.max_batch in by_size
