"""From readings to joules, pure: sums that never go back and in which glitches do not count.

Sensors glitch: 10 A at 0.16 V has been seen on a supply of 0.85 V, and counters restart with their driver. So a reading
that does not fit those before it is held back until a later one agrees with it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from agent.errors import MeterError

MIN_WATTS = -1.0  # a rail without load reads a few mW below zero
MAX_WATTS = 2000.0  # of one rail; more is a glitch
VOLTS_SHARE, VOLTS = 0.2, 0.05  # a supply is regulated: its volts stay within this share, or this many volts
LEAP, LEAP_W = 2.0, 2.0  # more than LEAP times the most so far and LEAP_W more is to be confirmed
CONFIRM_S = 0.1  # by a reading this much later: a sensor shows one conversion for tens of milliseconds
STEP_S = 0.1  # within which a counter steps at least once


class Reading(NamedTuple):
    """What a sensor showed at a time in seconds. ``volts`` of the supply, None where they are not known."""

    time: float
    watts: float
    volts: float | None = None


class Watts:
    """Joules from watts by the trapezoid rule. ``total`` in joules, ``last`` the newest reading that counts."""

    def __init__(self) -> None:
        self.total = 0.0
        self.last: Reading | None = None
        self._held: Reading | None = None  # waits to be confirmed
        self._most = 0.0

    def add(self, time: float, watts: float, volts: float | None = None) -> None:
        """The next reading. The first counts from when the second agrees with it. MeterError when it cannot be."""
        if not MIN_WATTS <= watts <= MAX_WATTS or not (volts is None or math.isfinite(volts)):
            raise MeterError(f"shows {watts:g} W; check the sensor's shunt value")
        now = Reading(time, max(watts, 0.0), volts)
        if self.last is not None and now.time < self.last.time:
            return  # the clock went back
        if self.last is not None and _fits(self.last, now, self._most):
            self._count(now)
        elif self._held is None or not _fits(self._held, now, self._held.watts):
            self._held = now
        elif self.last is None or now.time - self._held.time >= CONFIRM_S:
            self._count(self._held)
            self._count(now)

    def _count(self, now: Reading) -> None:
        if self.last is not None:
            self.total += max(now.time - self.last.time, 0.0) * (now.watts + self.last.watts) / 2
        self.last, self._held = now, None
        self._most = max(self._most, now.watts)


def _fits(before: Reading, now: Reading, most: float) -> bool:
    """Whether ``now`` can follow ``before`` on a rail that has drawn ``most`` watts."""
    if before.volts is not None and now.volts is not None:
        slack = max(VOLTS_SHARE * max(before.volts, now.volts), VOLTS)
        if abs(before.volts - now.volts) > slack:
            return False
    return now.watts <= LEAP * most + LEAP_W


class Counter:
    """Joules from a counter of ``unit`` joules a step that wraps at ``wrap`` (None: never).

    ``total`` in joules, ``last``: the time of the newest reading that counts, and the mean watts until it.
    """

    def __init__(self, unit: float, wrap: int | None = None) -> None:
        self.total = 0.0
        self.last: Reading | None = None
        self._unit, self._wrap = unit, wrap
        self._counted: tuple[float, int] | None = None  # time and value
        self._held: tuple[float, int] | None = None

    def add(self, time: float, value: int) -> None:
        """The next reading. MeterError when it leaps: it counts from when the one after it does not leap from it."""
        now = time, value
        if self._counted is None:
            self._counted, self.last = now, Reading(time, 0.0)
            return
        joules = self._step(self._counted, now)
        if joules is None and self._held is not None:
            joules = self._step(self._held, now)  # it started anew
        if joules is None:
            self._held = now
            raise MeterError(f"leaps from {self._counted[1]} to {value}")
        seconds = time - self._counted[0]
        self.total += joules
        self.last = Reading(time, joules / seconds if seconds > 0 else 0.0)
        self._counted, self._held = now, None

    def _step(self, before: tuple[float, int], now: tuple[float, int]) -> float | None:
        """Joules between two readings; None when no rail draws so much."""
        seconds, steps = now[0] - before[0], now[1] - before[1]
        if steps < 0 and self._wrap is not None and steps + self._wrap <= self._wrap // 2:
            steps += self._wrap
        joules = steps * self._unit
        return joules if 0 <= joules <= MAX_WATTS * max(seconds, STEP_S) else None
