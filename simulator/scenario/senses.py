"""What a scenario's node reads of its board's power: the sensors, with their steps, rates and faults."""

from __future__ import annotations

import math

from agent.errors import MeterError
from simulator.board import SimMeter
from simulator.cell import MemoryCell

MAX_WATTS = 1e4  # more is a glitch, as for telemetry's sampler
FRESH_S = 0.5  # a sensor that was read less long ago is not read again: it averages over some time


class Senses:
    """Where rails overlap, those that see most, so that nothing is counted twice."""

    def __init__(self, cell: MemoryCell) -> None:
        rails, known = cell.profile.rails, set[str]()
        self._meters = []
        for index in sorted(range(len(rails)), key=lambda index: -len(rails[index].measures)):
            if known.isdisjoint(rails[index].measures):
                known.update(rails[index].measures)
                self._meters.append(SimMeter(cell, index))
        self._last: dict[str, tuple[float, float]] = {}
        self._read = -math.inf
        self._watts: float | None = None

    def watts(self, now: float) -> float | None:
        """Of all sensors together, on average since they were last read; None without one, or when one fails."""
        if now - self._read >= FRESH_S:
            parts = [self._rail(meter, now) for meter in self._meters]
            known = [watts for watts in parts if watts is not None]
            self._watts = sum(known) if parts and len(known) == len(parts) else None
            self._read = now
        return self._watts

    def _rail(self, meter: SimMeter, now: float) -> float | None:
        try:
            joules = meter.joules()
        except MeterError:
            self._last.pop(meter.rail, None)
            return None
        if not math.isfinite(joules):
            return None
        before, self._last[meter.rail] = self._last.get(meter.rail), (now, joules)
        if before is None or now <= before[0]:
            return None
        watts = (joules - before[1]) / (now - before[0])
        return watts if 0 <= watts <= MAX_WATTS else None
