"""What the node draws without its models, from what it draws with them. Pure.

Measured power less what the requests just served are known to cost. It is filtered while models serve, so it does not
go stale, and takes in what the model of costs gets wrong: rest and models together are what the meter shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.types import Measurement

GAIN = 0.2  # of a new value: meters and runs that cross the ends of looks scatter by a few per cent
JUMP_SIGMAS = 4.0  # twice in a row so far away on one side is a change, not scatter
LEAST_SIGMA_W = 0.01  # what sensors resolve
DRIFT_W = 0.02  # standard deviation that a second without a meter adds, as a random walk
MOST_W = 1e4  # more is no power of a node
GLITCH = 5.0  # times what was expected, for one look: a sensor's fault rather than the node's


@dataclass(frozen=True, slots=True)
class Rest:
    """``watts`` None: no meter ever told. ``sigma_w``: of the estimate. ``away``: looks in a row at which it was far
    from what was measured, negative below; ``blind_s``: since when no meter tells; ``planned_w``: what plans go by."""

    watts: float | None = None
    sigma_w: float = LEAST_SIGMA_W
    away: int = 0
    blind_s: float = 0.0
    planned_w: float | None = None

    def guessed(self, watts: float | None, sigma_w: float) -> Rest:
        """With a first guess, where nothing is known yet."""
        if self.watts is not None or watts is None or not 0 <= watts <= MOST_W:
            return self
        return replace(self, watts=watts, sigma_w=max(sigma_w, LEAST_SIGMA_W), planned_w=watts)

    def metered(self, power_w: float, served_w: float) -> Rest:
        """After a look at which the node drew ``power_w``, ``served_w`` of it for its models."""
        value = max(0.0, power_w - served_w)
        if self.watts is None:
            return Rest(value, LEAST_SIGMA_W, planned_w=value)
        off = value - self.watts
        side = 0 if abs(off) <= JUMP_SIGMAS * self.sigma_w else int(math.copysign(1, off))
        away = self.away + side if side and self.away * side >= 0 else side
        if abs(away) >= 2 or self.blind_s:
            return self._at(value, self.sigma_w)
        variance = (1 - GAIN) * self.sigma_w**2 + GAIN * min(abs(off), JUMP_SIGMAS * self.sigma_w) ** 2
        moved = replace(self, away=away) if side else self._at(self.watts + GAIN * off, math.sqrt(variance))
        return replace(moved, sigma_w=math.sqrt(variance))

    def blind(self, seconds: float) -> Rest:
        """After a look without a meter: the last value holds, less and less certainly."""
        return replace(self, blind_s=self.blind_s + seconds, away=0)

    def at_least(self, watts: float) -> Rest:
        """The node was seen to draw more than was thought: the rest is no less than ``watts``."""
        return self if self.watts is not None and self.watts >= watts else self._at(watts, self.sigma_w)

    @property
    def sigma_now_w(self) -> float:
        """With what time without a meter adds."""
        return math.sqrt(self.sigma_w**2 + DRIFT_W**2 * self.blind_s)

    def _at(self, watts: float, sigma_w: float) -> Rest:
        sigma = max(sigma_w, LEAST_SIGMA_W)
        planned = self.planned_w
        if planned is None or abs(watts - planned) > max(sigma, LEAST_SIGMA_W):
            planned = watts
        return Rest(watts, sigma, planned_w=planned)


def sensible(power_w: float | None, expected_w: float | None) -> bool:
    """Whether a meter's value can be the node's draw."""
    if power_w is None or not math.isfinite(power_w) or not 0 < power_w <= MOST_W:
        return False
    return expected_w is None or power_w <= GLITCH * max(expected_w, 1.0)


def drawn_w(held: Iterable[tuple[Measurement, float]]) -> float:
    """Watts of models with the rates (per second) that they run at: runs, and of each device what holds most."""
    holding: dict[str, float] = {}
    watts = 0.0
    for m, rate_hz in held:
        device = m.candidate.device
        holding[device] = max(holding.get(device, 0.0), m.holding_w or 0.0)
        watts += rate_hz * (m.joules or 0.0)
    return watts + math.fsum(holding.values())


def spread_w(held: Iterable[tuple[Measurement, float]]) -> float:
    """Standard error of ``drawn_w``: errors of one meter add up."""
    return math.fsum(rate_hz * (m.joules_sigma or 0.0) for m, rate_hz in held)
