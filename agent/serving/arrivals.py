"""Requests that come when they like, as clients' do: Poisson arrivals, and how long each is on its way. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable

MAX_ARRIVALS = 8192  # their latencies must fit one control message


def arrivals(seconds: float, rate_hz: float, seed: int) -> list[float]:
    """Moments from 0 to ``seconds``, MAX_ARRIVALS at most, with exponential gaps; none, maybe.

    ``seed`` decides which. ValueError unless the rate is positive.
    """
    if not rate_hz > 0:
        raise ValueError(f"a rate of {rate_hz!r}/s brings no requests")
    rng = random.Random(seed)  # noqa: S311 (no secret)
    moments: list[float] = []
    moment = rng.expovariate(rate_hz)
    while moment < seconds and len(moments) < MAX_ARRIVALS:
        moments.append(moment)
        moment += rng.expovariate(rate_hz)
    return moments


def latencies(runs: Iterable[tuple[float, float]]) -> list[float]:
    """Seconds from each arrival to the end of its run, from (arrival, seconds of the run) in order, on a device that
    does one run at a time: who comes during another's run waits for its end (Lindley's recursion)."""
    finished, found = float("-inf"), []
    for arrival, run_s in runs:
        finished = max(arrival, finished) + run_s
        found.append(finished - arrival)
    return found
