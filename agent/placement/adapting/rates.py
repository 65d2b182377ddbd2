"""The rate at which a model is asked, from counts. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MEMORY_S = 20.0  # of what plans go by, once it is steady
QUICK_S = 2.0  # of what tells that it is not
PROMISE_S = 1.0  # of counting that the budget's rate is worth before anything is seen
CHANGED = 2.5  # standard deviations between the two: another rate
STEP = 0.1  # of the rate that is planned with: less is no reason to plan again
SURE = 3.1  # standard deviations below the estimate: there is a thousandth
SIGMAS = 2.0  # of the estimate's own noise: nor is that


@dataclass(frozen=True, slots=True)
class Load:
    """``rate_hz``: the average since the rate changed last, whose weights fade with MEMORY_S; ``quick_hz``: the same
    with QUICK_S; ``planned_hz``: what plans go by, which follows in steps; ``time``: until when requests are counted;
    ``seconds``: for how long at this rate."""

    rate_hz: float
    quick_hz: float
    planned_hz: float
    time: float
    seconds: float = 0.0

    @classmethod
    def promised(cls, rate_hz: float, time: float) -> Load:
        """Before anything is seen it is the budget's."""
        return cls(rate_hz, rate_hz, rate_hz, time)

    def counted(self, requests: int, time: float) -> Load:
        """After so many requests until ``time``."""
        seconds = time - self.time
        if seconds <= 0 or requests < 0:
            return self
        count_hz, counted_s = requests / seconds, self.seconds + seconds
        quick = self.quick_hz - math.expm1(-seconds / QUICK_S) * (count_hz - self.quick_hz)
        # At first an average of all that was seen, so that a promise which does not hold is soon forgotten.
        share = max(-math.expm1(-seconds / MEMORY_S), seconds / (PROMISE_S + counted_s))
        rate = self.rate_hz + share * (count_hz - self.rate_hz)
        if (
            abs(quick - rate) > CHANGED * math.sqrt(max(rate, 1 / QUICK_S) / (2 * QUICK_S))
            and counted_s > QUICK_S
        ):
            rate, counted_s = quick, QUICK_S
            share = seconds / (PROMISE_S + counted_s)
        noise = math.sqrt(rate * share / (2 * seconds))  # of Poisson arrivals
        near = abs(rate - self.planned_hz) <= max(STEP * self.planned_hz, SIGMAS * noise)
        return Load(rate, quick, self.planned_hz if near else rate, time, counted_s)

    @property
    def surely_hz(self) -> float:
        """What the rate is at least, but for a chance in a thousand, if arrivals are Poisson; in steps as what plans go
        by."""
        counted_s = PROMISE_S + min(self.seconds, 2 * MEMORY_S)
        return max(0.0, self.planned_hz - SURE * math.sqrt(max(self.planned_hz, 0.0) / counted_s))

    @property
    def doubted(self) -> Load:
        """When what is decided by it turns out to cost: the last seconds count."""
        return replace(
            self, rate_hz=self.quick_hz, planned_hz=self.quick_hz, seconds=min(self.seconds, QUICK_S)
        )
