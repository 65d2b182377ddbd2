"""How much slower than profiled a device runs, from its runs. Pure.

The filter is ALERT's (Wan et al., USENIX ATC 2020, "Global slowdown factor"): a Kalman filter on the ratio z of
observed to profiled time, whose process noise follows the innovations: it tracks a step at once and is calm otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

ALPHA = 0.3  # how long the process noise remembers
NOISE = 0.1  # least process noise, and the first (Q0)
SPREAD = 0.5  # variance of one run's z: jitter, and outliers such as a page fault
GAIN = 0.5  # the first gain (K0)
VARIANCE = 0.1  # the first
RELAX_S = 10.0  # time constant with which what nobody sees any more is forgotten
LEAST, MOST = 0.05, 100.0  # a ratio beyond is an error of a clock


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Time of a run as a multiple of the profiled, and its variance; ``gain`` and ``noise``: of the last update."""

    mean: float = 1.0
    variance: float = VARIANCE
    gain: float = GAIN
    noise: float = NOISE

    def observed(self, z: float, runs: int) -> Slowdown:
        """After ``runs`` runs that took ``z`` times the profiled time on average; as it is when that is no ratio."""
        if runs < 1 or not math.isfinite(z) or not LEAST <= z <= MOST:
            return self
        innovation = z - self.mean
        noise = max(NOISE, ALPHA * self.noise + (1 - ALPHA) * (self.gain * innovation) ** 2)
        prior = (1 - self.gain) * self.variance + noise
        gain = prior / (prior + SPREAD / runs)
        return Slowdown(self.mean + gain * innovation, prior, gain, noise)

    def relaxed(self, seconds: float) -> Slowdown:
        """After ``seconds`` in which nothing ran: towards 1, the less certain the longer."""
        if seconds <= 0:
            return self
        left = math.exp(-seconds / RELAX_S)
        mean = 1.0 + (self.mean - 1.0) * left
        return replace(self, mean=mean, variance=VARIANCE + (self.variance - VARIANCE) * left, gain=GAIN)
