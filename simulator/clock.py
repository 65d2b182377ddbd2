"""Two clocks for the same board: real time, and event time that jumps to whatever comes next."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Board seconds; never goes back."""

    def now(self) -> float: ...

    def wait_until(self, moment: float) -> None:
        """Return when ``now() >= moment``."""
        ...


class RealClock:
    """CLOCK_MONOTONIC: one clock for all processes of a machine, from its boot on."""

    def now(self) -> float:
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            time.sleep(left)


class EventClock:
    """Stands still until somebody waits."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def wait_until(self, moment: float) -> None:
        self._now = max(self._now, moment)
