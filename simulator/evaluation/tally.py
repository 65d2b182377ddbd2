"""A model's requests by second, and what can be told of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agent.types import Candidate
from simulator.scenario.node import SHED

CALM_S = 5  # seconds in a row that tell that all is well again,
SPARED = 0.1  # of their requests may be late or fail, for a p99 is no promise to every request


class Tally:
    """See ``simulator.scenario.service.Record``."""

    def __init__(self, budget_ms: float, seconds: float) -> None:
        self._budget_s = budget_ms / 1e3
        count = math.ceil(seconds) + 1
        self.requests = self.answered = self.late = self.failures = self.shed = 0
        self.arrived = [0] * count
        self.bad = [0] * count  # late, failed or shed
        self.joules = [0.0] * count  # of the runs of what arrived then

    def done(self, candidate: Candidate, arrived: float, latency_s: float, joules: float) -> None:
        del candidate
        self.answered += 1
        second = int(arrived)
        self.arrived[second] += 1
        self.joules[second] += joules
        if latency_s > self._budget_s:
            self.late += 1
            self.bad[second] += 1

    def failed(self, arrived: float, why: str) -> None:
        if why == SHED:
            self.shed += 1
        else:
            self.failures += 1
        self.arrived[int(arrived)] += 1
        self.bad[int(arrived)] += 1


def recovered_s(tallies: Sequence[Tally], over: Sequence[bool], begin: float, end: float) -> float | None:
    """Seconds from ``begin`` until CALM_S seconds begin that are in time and keep the cap (``over``: by second whether
    it is exceeded); None when there are none before ``end``."""
    first, last = math.ceil(begin), math.floor(end) - CALM_S
    for second in range(first, last + 1):
        window = range(second, second + CALM_S)
        if not any(over[k] for k in window) and all(_calm(tally, window) for tally in tallies):
            return second - begin
    return None


def _calm(tally: Tally, window: range) -> bool:
    bad = sum(tally.bad[k] for k in window)
    return tally.bad[window[0]] == 0 and bad <= SPARED * sum(tally.arrived[k] for k in window)


def chance_w(tally: Tally, second: int, rate_hz: float) -> float:
    """Watts that a second's runs drew because more (or, below 0, fewer) requests arrived than the rate tells."""
    arrived = tally.arrived[second]
    return tally.joules[second] * (1 - rate_hz / arrived) if arrived else 0.0


def longest(over: Sequence[bool]) -> int:
    """The length of the longest row of True."""
    most = now = 0
    for each in over:
        now = now + 1 if each else 0
        most = max(most, now)
    return most
