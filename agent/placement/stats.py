"""Percentiles that a sample can vouch for."""

from __future__ import annotations

import math
from collections.abc import Sequence

QUANTILE = 0.99
CONFIDENCE = 0.99


def p99_upper(samples: Sequence[float]) -> tuple[float, float]:
    """An upper bound of the 99th percentile and the confidence (0..1) that the percentile does not lie above it.

    The bound is the smallest order statistic that gives at least 99 % confidence, whatever the distribution (from 459
    samples on). With fewer samples it is the maximum, at the confidence that this gives.
    ValueError without samples.
    """
    above, confidence = spare(len(samples), QUANTILE, CONFIDENCE)
    return sorted(samples)[-1 - above], confidence


def spare(count: int, quantile: float, confidence: float) -> tuple[int, float]:
    """How many of ``count`` samples may lie above the bound of ``quantile``, and the confidence reached.

    The number of samples above the true quantile is binomial (count, 1 - quantile), so the (m+1)-th largest sample
    bounds it with confidence 1 - P(at most m above); see Conover, Practical Nonparametric Statistics, "Confidence
    interval for a quantile".
    """
    if count < 1:
        raise ValueError("no samples: nothing was measured")
    reached = 1.0 - _exactly(count, 0, quantile)
    above, missed = 0, 1.0 - reached
    while above + 1 < count:
        missed += _exactly(count, above + 1, quantile)
        if 1.0 - missed < confidence:
            break
        above, reached = above + 1, 1.0 - missed
    return above, reached


def _exactly(count: int, above: int, quantile: float) -> float:
    """P(exactly ``above`` of ``count`` samples lie above the quantile), by logarithms: 0.99^n underflows."""
    ways = math.lgamma(count + 1) - math.lgamma(above + 1) - math.lgamma(count - above + 1)
    return math.exp(ways + above * math.log(1 - quantile) + (count - above) * math.log(quantile))


def mean(samples: Sequence[float]) -> float:
    """The arithmetic mean; ValueError without samples."""
    if not samples:
        raise ValueError("no samples: nothing was measured")
    return math.fsum(samples) / len(samples)


def median(samples: Sequence[float]) -> float:
    """The median; ValueError without samples."""
    if not samples:
        raise ValueError("no samples: nothing was measured")
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
