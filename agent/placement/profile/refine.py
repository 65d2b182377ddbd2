"""What serving a model adds to what is known of it: the tail of its run times, from far more runs. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from agent.histogram import MAX_BUCKET, PER_OCTAVE, Histogram
from agent.placement.stats import CONFIDENCE, QUANTILE, spare
from agent.types import Measurement

MIN_RUNS = 459  # vouch for a 99th percentile at 99 %
BLOCK_RUNS = 100  # that are taken or left together,
ALIKE = 0.1  # when their mean is as expected but for so much: then nothing else was going on


def as_expected(block: Histogram, m: Measurement, slowdown: float) -> bool:
    """Whether runs took what the profile says on a device that is so much slower now."""
    if not block.total or not slowdown > 0:
        return False
    return abs(block.seconds / block.total * 1e3 / slowdown - m.mean_ms) <= ALIKE * m.mean_ms


def at_profiled_speed(block: Histogram, slowdown: float) -> Histogram:
    """The runs as they would be on a device as fast as profiled; up to a bucket too long, never too short."""
    buckets = math.floor(PER_OCTAVE * math.log2(slowdown))
    scaled = Histogram(seconds=block.seconds / slowdown)
    for bucket, count in block.counts.items():
        scaled.merge({min(max(bucket - buckets, 0), MAX_BUCKET): count})
    return scaled


def p99_within(served: Histogram) -> tuple[float, float, float]:
    """Between how many ms the upper bound of the 99th percentile lies, and how sure it is; the buckets tell no more.
    ValueError without runs."""
    above, confidence = spare(served.total, QUANTILE, CONFIDENCE)
    for bucket in sorted(served.counts, reverse=True):
        above -= served.counts[bucket]
        if above < 0:
            break
    low, high = (2.0 ** ((bucket + step) / PER_OCTAVE) / 1e3 for step in (0, 1))
    return low, high, confidence


def refined(m: Measurement, served: Histogram) -> Measurement:
    """``m`` with the bound that runs in service (at profiled speed) give, when they are more and as sure; the same
    object when they say nothing new.

    ``m``: by the closed loop. The mean stays: by it the device's slowdown is told.
    """
    if served.total < max(MIN_RUNS, m.runs + 1):
        return m
    low, high, confidence = p99_within(served)
    if confidence < min(m.confidence, CONFIDENCE):
        return m
    p99_ms = m.p99_ms if low <= m.p99_ms <= high else max(high, m.p50_ms)
    return replace(m, p99_ms=p99_ms, confidence=confidence, runs=served.total)
