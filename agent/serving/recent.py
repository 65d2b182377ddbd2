"""Latencies of the last minutes: slices of ten seconds that fall off at the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.histogram import Histogram

SLICE_S = 10.0
KEEP_S = 300.0


@dataclass(slots=True)
class Recent:
    """Totals since the start and a histogram of the last five minutes. Times are monotonic seconds."""

    requests: int = 0
    errors: int = 0
    _slices: deque[tuple[float, Histogram]] = field(default_factory=deque)

    def add(self, now: float, latency: Histogram, errors: int) -> None:
        """Count answered requests (by latency) and failed ones."""
        self.requests += latency.total + errors
        self.errors += errors
        if not self._slices or now - self._slices[-1][0] >= SLICE_S:
            self._slices.append((now, Histogram()))
        self._slices[-1][1].merge(latency.counts)
        self._drop(now)

    def histogram(self, now: float) -> Histogram:
        """The last five minutes."""
        self._drop(now)
        merged = Histogram()
        for _, part in self._slices:
            merged.merge(part.counts)
        return merged

    def _drop(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > KEEP_S:
            self._slices.popleft()
