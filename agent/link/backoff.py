"""How long to wait before the next attempt to reach the broker: full jitter above a floor.

paho's own delay doubles without jitter, so that all nodes come back to a restarted broker at the same instants.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FLOOR_S = 2.0
CAP_S = 60.0
STABLE_S = 120.0


def next_delay(attempt: int, rng: random.Random, floor_s: float = FLOOR_S, cap_s: float = CAP_S) -> float:
    """Seconds before retry ``attempt`` (0 = the first): uniform in [floor, min(cap, floor·(1 + 2^attempt))]."""
    spread = min(cap_s - floor_s, floor_s * 2.0 ** min(attempt, 30))
    return floor_s + rng.uniform(0.0, max(0.0, spread))


@dataclass(frozen=True, slots=True)
class Backoff:
    """Limits in seconds. Only a connection that held for ``stable_s`` makes the next failure count as the first."""

    floor_s: float = FLOOR_S
    cap_s: float = CAP_S
    stable_s: float = STABLE_S

    def delay(self, attempt: int, rng: random.Random) -> float:
        return next_delay(attempt, rng, self.floor_s, self.cap_s)

    def after(self, attempt: int, held_s: float) -> int:
        """The number of the next attempt, when the connection before it held for ``held_s`` (0 = never came about)."""
        return 0 if held_s >= self.stable_s else attempt + 1


# Of connections that carry blocks: few nodes download at once, and a broker that restarted shall cost them little.
BLOCKS = Backoff(floor_s=0.5, stable_s=3.0)
