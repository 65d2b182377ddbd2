"""What the node draws: by rail now, in total over the last two minutes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from agent.serving.door.node import Rail
from agent.types import PowerSample

KEEP_S = 120.0
POINTS = 240


class PowerLog:
    """Fed by the sampler with each interval's samples. ``monotonic`` in seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._rails: dict[str, Rail] = {}
        self._last: dict[str, float] = {}
        self._totals: deque[tuple[float, float]] = deque(maxlen=POINTS)
        self.watts: float | None = None
        self.total_w: float | None = None  # None as well while a rail is missing that could be read before

    @property
    def rails(self) -> tuple[Rail, ...]:
        """Rails with a reading, by name."""
        return tuple(rail for _, rail in sorted(self._rails.items()))

    @property
    def totals(self) -> tuple[tuple[float, float], ...]:
        """(Unix s, W) of all rails together, of the last two minutes."""
        newest = self._totals[-1][0] if self._totals else 0.0
        return tuple(point for point in self._totals if newest - point[0] <= KEEP_S)

    def add(self, samples: Sequence[PowerSample]) -> None:
        """The averages since the previous call; an empty list when no rail could be read."""
        self.watts = sum(sample.watts for sample in samples) if samples else None
        self.total_w = self.watts if self._rails.keys() <= {sample.rail for sample in samples} else None
        if self.watts is not None:
            self._totals.append((samples[0].time, self.watts))
        now = self._monotonic()
        for sample in samples:
            before = self._last.get(sample.rail, now)
            self._last[sample.rail] = now
            known = self._rails.get(sample.rail)
            joules = (known.joules if known else 0.0) + sample.watts * (now - before)
            self._rails[sample.rail] = Rail(sample.rail, sample.tag, sample.watts, joules)
