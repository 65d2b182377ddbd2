"""The clock of a phase, which stands still while a worker of the model builds something for this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from agent.serving.builds import Builds

LEAST_S = 0.05  # between looks at the clock

T = TypeVar("T")


class PhaseClock:
    """Runs from now on."""

    def __init__(self, builds: Builds, model: str) -> None:
        self._builds, self._model = builds, model
        self._began = 0.0
        self._began = self.seconds

    @property
    def seconds(self) -> float:
        """Since it began, without what was spent on building."""
        return time.monotonic() - self._builds.seconds(self._model) - self._began


async def within(limit_s: float, clock: PhaseClock, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; asyncio.TimeoutError, and it is cancelled, when the clock passes ``limit_s``."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        while not task.done():
            left_s = limit_s - clock.seconds
            if left_s <= 0:
                break
            await asyncio.wait({task}, timeout=max(left_s, LEAST_S))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise asyncio.TimeoutError
    return task.result()
