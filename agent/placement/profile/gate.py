"""Measuring in slices that give way to models in service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from agent.placement.profile.meters import Clock

SLICE_S = 0.1
MIN_SLICE_S = 0.002
LOOK_S = 0.05  # between looks while a model in service is late
REPORT_S = 1.1  # until a disturbance shows: workers report once a second


class Gate:
    """Says before each slice how long it may be. ``quiet``: False while a model in service is late.

    After each time that one got late, slices are half as long and followed by a rest in which the next lateness would
    show, so that measuring soon takes less of the node than the one request in a hundred that a 99th percentile
    allows. All waiting together lasts ``patience_s`` at most; then the gate is shut.
    """

    def __init__(
        self, quiet: Callable[[], bool] = lambda: True, patience_s: float = 0.0, clock: Clock = time.monotonic
    ) -> None:
        self._quiet, self._left_s, self._clock = quiet, patience_s, clock
        self._slice_s = SLICE_S
        self._careful = False
        self.shut = False

    async def wait(self, seconds: float) -> float:
        """Seconds, ``seconds`` at most, that may run now; 0.0 when the gate is shut."""
        if self._careful:
            await self._rest(REPORT_S)
        if not self.shut and not self._quiet():
            self._careful = True
            self._slice_s = max(self._slice_s / 2, MIN_SLICE_S)
            while not self.shut and not self._quiet():
                await self._rest(LOOK_S)
        return 0.0 if self.shut else min(seconds, self._slice_s)

    async def _rest(self, seconds: float) -> None:
        self.shut = self._left_s <= 0
        began = self._clock()
        await asyncio.sleep(min(seconds, max(0.0, self._left_s)))
        self._left_s -= max(self._clock() - began, MIN_SLICE_S)
