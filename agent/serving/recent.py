"""What a model was asked: totals, a histogram of the last minutes, and every second of the last two."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.histogram import Histogram

SLICE_S = 10.0
KEEP_S = 300.0
SECONDS = 120


@dataclass(frozen=True, slots=True)
class Second:
    """What came in one report of a worker, about a second's: ``at`` in monotonic s; None without an answer."""

    at: float
    requests: int
    errors: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(slots=True)
class Recent:
    """Totals since the start (``total``: answered ones by latency) and what is recent. Times are monotonic seconds."""

    requests: int = 0
    errors: int = 0
    total: Histogram = field(default_factory=Histogram)
    _slices: deque[tuple[float, Histogram]] = field(default_factory=deque)
    _seconds: deque[Second] = field(default_factory=lambda: deque(maxlen=SECONDS))

    def add(self, now: float, latency: Histogram, errors: int) -> None:
        """Count answered requests (by latency) and failed ones."""
        requests = latency.total + errors
        self.requests += requests
        self.errors += errors
        self.total.merge(latency.counts)
        self.total.seconds += latency.seconds
        self._seconds.append(
            Second(now, requests, errors, latency.percentile_ms(0.50), latency.percentile_ms(0.99))
        )
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

    def seconds(self, now: float) -> tuple[Second, ...]:
        """Of the last two minutes those that brought requests, oldest first."""
        return tuple(second for second in self._seconds if now - second.at <= SECONDS)

    def _drop(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > KEEP_S:
            self._slices.popleft()
