"""What the node draws without its models, from what it draws with them. Pure.

Measured power less what the requests just served are known to cost. It is filtered while models serve, so it does not
go stale, and takes in what the model of costs gets wrong: rest and models together are what the meter shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agent.placement.planning.ways import MOST, SIGMAS, held_w, joules_of
from agent.types import Measurement

GAIN = 0.1  # of a new value: meters and runs that cross the ends of looks scatter by a few per cent
SHARE = GAIN / (2 - GAIN)  # of a look's variance that the filtered value keeps
JUMP, PATIENCE = (
    4.0,
    2,
)  # so many standard deviations away, so often in a row on one side: a change, not scatter
LEAST_W = 0.002  # scatter: averages over a second are finer than a sensor's steps
DRIFT_W = 0.02  # standard deviation that a second without a meter adds, as a random walk
MOST_W = 1e4  # more is no power of a node
GLITCH, STUBBORN = (
    5.0,
    10,
)  # so many times more or less than expected is a sensor's fault, unless it stays so long


@dataclass(frozen=True, slots=True)
class Rest:
    """``watts`` None: no meter ever told. ``scatter_w``: standard deviation of a look's value; ``away``: looks in a row
    at which it was far from the estimate, negative below; ``fell``: at this look it was found to have become less;
    ``blind_s``: how long no meter has told; ``planned_w``: what plans go by."""

    watts: float | None = None
    scatter_w: float = LEAST_W
    away: int = 0
    fell: bool = False
    blind_s: float = 0.0
    planned_w: float | None = None

    def guessed(self, watts: float | None, sigma_w: float) -> Rest:
        """With a first guess, where nothing is known yet."""
        if self.watts is not None or watts is None or not 0 <= watts <= MOST_W:
            return self
        sigma_w = sigma_w if 0 <= sigma_w <= watts else 0.0  # else it is nonsense
        scatter_w = max(sigma_w / math.sqrt(SHARE), LEAST_W)
        return replace(self, watts=watts, scatter_w=scatter_w, planned_w=watts)

    def metered(self, power_w: float, served_w: float) -> Rest:
        """After a look at which the node drew ``power_w``, ``served_w`` of it for its models."""
        value = max(0.0, power_w - served_w)
        if self.watts is None:
            return Rest(value, planned_w=value)
        off, expected_w = value - self.watts, max(self.watts + served_w, 1.0)
        far = abs(off) > JUMP * self.scatter_w
        side = int(math.copysign(far, off))
        away = self.away + side if self.away * side >= 0 else side
        odd = not expected_w / GLITCH <= power_w <= GLITCH * expected_w
        if abs(away) >= (STUBBORN if odd else PATIENCE) or (self.blind_s and not odd):
            return self._at(value, self.scatter_w, fell=off < 0 and not self.blind_s)
        if odd:
            return replace(self, away=away, fell=False)
        near = min(abs(off), JUMP * self.scatter_w)
        scatter_w = math.sqrt((1 - GAIN) * self.scatter_w**2 + GAIN * near**2)
        if far:
            return replace(self, scatter_w=scatter_w, away=away, fell=False)
        return self._at(self.watts + GAIN * off, scatter_w)

    def blind(self, seconds: float) -> Rest:
        """After a look without a meter: the last value holds, less and less certainly."""
        return replace(self, blind_s=self.blind_s + seconds, away=0, fell=False)

    @property
    def seen_sigma_w(self) -> float:
        """Of the estimate when a meter told last."""
        return math.sqrt(SHARE) * self.scatter_w

    @property
    def sigma_w(self) -> float:
        """Of the estimate, with what time without a meter adds."""
        return math.hypot(self.seen_sigma_w, DRIFT_W * math.sqrt(self.blind_s))

    def _at(self, watts: float, scatter_w: float, fell: bool = False) -> Rest:
        scatter_w = max(scatter_w, LEAST_W)
        planned = self.planned_w
        if planned is None or abs(watts - planned) > 2 * math.sqrt(SHARE) * scatter_w:
            planned = watts
        return Rest(watts, scatter_w, fell=fell, planned_w=planned)


def sensible(power_w: float | None) -> bool:
    """Whether a meter's value can be a node's draw."""
    return power_w is not None and 0 < power_w <= MOST_W  # which NaN is not


def drawn_w(held: Iterable[tuple[Measurement, float]]) -> float:
    """Watts of models with the rates (per second) that they run at: runs, and of each device what holds most."""
    holding: dict[str, float] = {}
    watts = 0.0
    for m, rate_hz in held:
        device = m.candidate.device
        holding[device] = max(holding.get(device, 0.0), held_w(m))
        watts += rate_hz * (joules_of(m) or 0.0)
    return watts + math.fsum(holding.values())


def bound_w(rest_w: float, sigma_w: float, held: Sequence[tuple[Measurement, float]]) -> float:
    """What the node draws with them, mean and 1.64 sigma; errors of one meter add up."""
    spread_w = math.fsum(rate_hz * sigma_of(m) for m, rate_hz in held)
    return rest_w + SIGMAS * (sigma_w + spread_w) + drawn_w(held)


def sigma_of(m: Measurement) -> float:
    """Standard error of a run's energy; 0 when not known or nonsense."""
    return m.joules_sigma if m.joules_sigma is not None and 0 < m.joules_sigma < MOST else 0.0
