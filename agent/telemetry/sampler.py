"""Energy counters → average watts per interval."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from agent.errors import MeterError, one_line
from agent.types import PowerSample

log = logging.getLogger("telemetry")
MAX_WATTS = 1e4  # average of one rail: more is a glitch


class Meter(Protocol):
    """What is needed of a power meter; ``joules`` never decreases and raises MeterError when unreadable."""

    rail: str
    tag: str

    def joules(self) -> float: ...


class Sampler:
    """Remembers each meter's last reading. ``monotonic`` measures intervals, ``wall`` stamps samples (Unix s)."""

    def __init__(
        self,
        meters: Sequence[Meter],
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._meters = meters
        self._monotonic, self._wall = monotonic, wall
        self._last: dict[str, tuple[float, float]] = {}  # rail: (monotonic s, J)
        self._problems: dict[str, str] = {}

    def sample(self) -> list[PowerSample]:
        """Average watts since the previous call per readable rail; a rail's first reading gives none."""
        samples = []
        for meter in self._meters:
            watts = self._watts(meter)
            if watts is not None:
                samples.append(PowerSample(self._wall(), meter.rail, watts, meter.tag))
        return samples

    def _watts(self, meter: Meter) -> float | None:
        try:
            joules = meter.joules()
            if not math.isfinite(joules):
                raise MeterError(f"reads {joules}")
        except MeterError as error:
            self._tell(meter.rail, one_line(error))
            return None
        now = self._monotonic()
        before, self._last[meter.rail] = self._last.get(meter.rail), (now, joules)
        if before is None or now <= before[0]:
            self._tell(meter.rail, "")
            return None
        watts = (joules - before[1]) / (now - before[0])
        if not 0 <= watts <= MAX_WATTS:  # a glitch or a reset: it starts anew from here
            self._tell(meter.rail, "its counter jumped")
            return None
        self._tell(meter.rail, "")
        return watts

    def _tell(self, rail: str, problem: str) -> None:
        """Once: a sensor that shows other nonsense each time has the same problem each time."""
        kind = re.sub(r"[\d.]+", "", problem)
        if kind == self._problems.get(rail, ""):
            return
        self._problems[rail] = kind
        if problem:
            log.warning("power of %s is not recorded: %s", rail, problem)
        else:
            log.info("power of %s is recorded again", rail)


async def run(meters: Sequence[Meter], every_s: float, sink: Callable[[Sequence[PowerSample]], None]) -> None:
    """Sample until cancelled; ``sink`` gets each interval's samples (an empty list when no rail could be read)."""
    sampler = Sampler(meters)
    while True:
        sink(sampler.sample())
        await asyncio.sleep(every_s)
