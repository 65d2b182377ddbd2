"""Shared values: names, tensors, budgets, histograms, errors across processes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import errors
from agent.histogram import Histogram
from agent.types import Budget, TensorSpec, check_digest, check_name, check_version


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "-a", "a/b", "a b", "ä", "x" * 64, "group", "blocks", "a\n"]
)
def test_illegal_names(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "cam-7", "0", "x" * 63])
def test_legal_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("version", ["", "../x", "1 0", "-1", "1/2", "1\n"])
def test_illegal_versions(version: str) -> None:
    with pytest.raises(ValueError, match="version"):
        check_version(version)


@pytest.mark.parametrize("digest", ["", "A" * 64, "a" * 63, "a" * 65, "g" * 64, "a" * 64 + "\n"])
def test_illegal_digests(digest: str) -> None:
    with pytest.raises(ValueError, match="digest"):
        check_digest(digest)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("FP8", (1,)),
        ("FP32", (1, -1)),
        ("FP32", (0,)),
        ("FP32", (-2,)),
        ("FP32", (1,) * 9),
        ("FP64", (1 << 28,)),
    ],
)
def test_impossible_tensors(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tensor"):
        TensorSpec("x", dtype, shape)


def test_the_free_dimension_is_the_batch() -> None:
    spec = TensorSpec("x", "FP32", (-1, 3))
    assert spec.dynamic and spec.concrete(4) == (4, 3) and spec.nbytes() == 12 and spec.nbytes(4) == 48


def test_strings_are_as_long_as_they_like() -> None:
    numbers, strings = TensorSpec("x", "FP32", (-1, 3)), TensorSpec("s", "BYTES", (-1, 3))
    assert [numbers.fits(size, 2) for size in (23, 24, 25)] == [False, True, False]
    assert [strings.fits(size, 2) for size in (23, 24, 25)] == [False, True, True]


@pytest.mark.parametrize(
    "values",
    [
        {"latency_p99_ms": 0.0},
        {"latency_p99_ms": -1.0},
        {"latency_p99_ms": math.nan},
        {"rate_hz": -1.0},
        {"rate_hz": math.inf},
        {"power_w": 0.0},
        {"min_accuracy": 1.5},
        {"priority": 10},
    ],
)
def test_absurd_budgets(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Budget(**({"latency_p99_ms": 20.0, "rate_hz": 10.0} | values))  # type: ignore[arg-type]


seconds = st.lists(st.floats(1e-6, 1000.0), min_size=1, max_size=300)


@given(seconds, st.floats(0.01, 1.0))
def test_a_percentile_is_within_a_bucket_of_the_true_one(values: list[float], fraction: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[max(1, math.ceil(fraction * len(values))) - 1] * 1e3
    found = histogram.percentile_ms(fraction)
    assert found is not None and true * 0.999 <= found <= true * 1.1


@given(seconds, seconds)
def test_histograms_add_up_and_survive_their_stored_form(first: list[float], second: list[float]) -> None:
    both, left, right = Histogram(), Histogram(), Histogram()
    for value in first:
        left.add(value)
        both.add(value)
    for value in second:
        right.add(value)
        both.add(value)
    left.merge(dict(Histogram.of(right.pairs()).counts))
    assert left.pairs() == both.pairs() and left.total == len(first) + len(second)


def test_an_empty_histogram_has_no_percentile_and_bad_pairs_are_refused() -> None:
    assert Histogram().percentile_ms(0.5) is None
    for pair in ((-1, 1), (10_000, 1), (0, -1)):
        with pytest.raises(ValueError, match="out of range"):
            Histogram.of([pair])


def test_errors_cross_processes_by_name() -> None:
    back = errors.from_name("GoldenMismatch", "y differs")
    assert (
        isinstance(back, errors.GoldenMismatch) and str(back) == "y differs" and back.name == "GoldenMismatch"
    )
    for stranger in ("SystemExit", "annotations", "NoSuchError"):
        assert type(errors.from_name(stranger, "x")) is errors.OverlaidError
    assert errors.one_line(ValueError("a\n  b")) == "a b"
    assert len(errors.one_line(ValueError("x" * 2000))) == 500
    assert errors.one_line(ValueError("a \ud800 b")).encode()
