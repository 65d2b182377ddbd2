"""The rate at which a model is asked, from counts. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY_S = 10.0  # a burst of seconds should not look like a day's change
PROMISE_S = 1.0  # of counting that the budget's rate is worth before anything is seen
STEP = 0.1  # of the rate that is planned with: less is no reason to plan again
SIGMAS = 2.0  # of the estimate's own noise: nor is that


@dataclass(frozen=True, slots=True)
class Load:
    """``rate_hz``: an average whose weights fade with MEMORY_S; ``planned_hz``: what plans go by, which follows it in
    steps; ``time``: until when requests are counted, for ``seconds`` so far."""

    rate_hz: float
    planned_hz: float
    time: float
    seconds: float = 0.0

    @classmethod
    def promised(cls, rate_hz: float, time: float) -> Load:
        """Before anything is seen it is the budget's."""
        return cls(rate_hz, rate_hz, time)

    def counted(self, requests: int, time: float) -> Load:
        """After so many requests until ``time``."""
        seconds = time - self.time
        if seconds <= 0 or requests < 0:
            return self
        counted = self.seconds + seconds
        # At first an average of all that was seen, so that a promise which does not hold is soon forgotten.
        share = max(-math.expm1(-seconds / MEMORY_S), seconds / (PROMISE_S + counted))
        rate = self.rate_hz + share * (requests / seconds - self.rate_hz)
        noise = math.sqrt(rate * share / (2 * seconds))  # of Poisson arrivals
        near = abs(rate - self.planned_hz) <= max(STEP * self.planned_hz, SIGMAS * noise)
        return Load(rate, self.planned_hz if near else rate, time, counted)
