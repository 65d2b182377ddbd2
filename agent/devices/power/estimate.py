"""Watts of a board without a sensor, from how busy its CPU is: P = idle + (busy - idle) * share of busy time.

Both figures are measured once, with a meter at the plug, and written into agent.toml. Good for boards whose CPU is all
that runs models: what an FPGA or a GPU draws does not show in its time. Source of the counters:
Documentation/filesystems/proc.rst of the Linux kernel, "/proc/stat" (guest time is in user time already).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.errors import MeterError

COLUMNS = 8  # user, nice, system, idle, iowait, irq, softirq, steal
IDLE = (3, 4)


class EstimateMeter:
    """See ``hal.PowerMeter``."""

    rail, tag = "estimate", "estimated"

    def __init__(
        self,
        idle_w: float,
        busy_w: float,
        stat: Path = Path("/proc/stat"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``idle_w`` and ``busy_w``: of the board with all cores idle, and with all of them busy."""
        self._idle_w, self._busy_w, self._stat, self._clock = idle_w, busy_w, stat, clock
        self._total_j = 0.0
        self._last: tuple[float, int, int] | None = None  # time, ticks busy and ticks in all of all cores

    def joules(self) -> float:
        """See ``hal.PowerMeter``."""
        busy, ticks = self._ticks()
        now = self._clock()
        if self._last is None:
            self._last = now, busy, ticks
        then, busy_before, ticks_before = self._last
        if ticks > ticks_before and now > then:
            share = min(
                max((busy - busy_before) / (ticks - ticks_before), 0.0), 1.0
            )  # iowait may go back a little
            self._total_j += (self._idle_w + (self._busy_w - self._idle_w) * share) * (now - then)
            self._last = now, busy, ticks
        return self._total_j

    def _ticks(self) -> tuple[int, int]:
        try:
            with self._stat.open() as file:
                name, *columns = file.readline().split()
            ticks = [int(column) for column in columns[:COLUMNS]]
        except (OSError, ValueError) as error:
            raise MeterError(f"{self._stat}: {error}") from None
        if name != "cpu" or len(ticks) < COLUMNS:
            raise MeterError(f"{self._stat}: its first line is not the CPU's time")
        return sum(ticks) - sum(ticks[column] for column in IDLE), sum(ticks)
