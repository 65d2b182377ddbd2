from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.stats import mean, median, p99_upper, spare


@pytest.mark.parametrize(
    ("confidence", "counts"), [(0.99, (459, 662, 838)), (0.95, (299, 473, 628))], ids=["99 %", "95 %"]
)
def test_the_known_sample_sizes(confidence: float, counts: tuple[int, ...]) -> None:
    for above, count in enumerate(counts):
        assert spare(count, 0.99, confidence)[0] == above
        assert spare(count, 0.99, confidence)[1] >= confidence
        assert spare(count - 1, 0.99, confidence)[0] == max(above - 1, 0)


def test_one_sample_too_few_reaches_less_than_99_percent() -> None:
    assert spare(458, 0.99, 0.99)[1] < 0.99


@given(st.integers(1, 1500))
def test_agrees_with_the_binomial_sum(count: int) -> None:
    above, reached = spare(count, 0.99, 0.99)

    def confidence(m: int) -> float:
        return 1 - sum(math.comb(count, i) * 0.01**i * 0.99 ** (count - i) for i in range(m + 1))

    assert reached == pytest.approx(confidence(above), abs=1e-9)
    if above:
        assert confidence(above) >= 0.99 > confidence(above + 1)


def test_many_samples_do_not_underflow() -> None:
    above, reached = spare(200_000, 0.99, 0.99)
    assert 1800 < above < 2000
    assert 0.99 <= reached < 0.991


def test_the_bound_is_an_order_statistic() -> None:
    samples = [float(i) for i in range(662)]
    bound, confidence = p99_upper(samples[::-1])
    assert bound == 660.0
    assert confidence == pytest.approx(0.99, abs=2e-4)
    assert p99_upper(samples[:459])[0] == 458.0


def test_few_samples_give_the_maximum_and_say_how_sure() -> None:
    bound, confidence = p99_upper([3.0, 1.0, 2.0])
    assert bound == 3.0
    assert confidence == pytest.approx(1 - 0.99**3)


def test_mean_and_median() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert median([5.0, 1.0, 3.0]) == 3.0
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


@pytest.mark.parametrize("figure", [p99_upper, mean, median])
def test_no_samples(figure: object) -> None:
    assert callable(figure)
    with pytest.raises(ValueError, match="no samples"):
        figure([])
