"""What a model was asked: totals, a histogram of the last minutes, and every second of the last two."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agent.histogram import Histogram

SLICE_S = 10.0
KEEP_S = 300.0
SECONDS = 120


# request: malformed or unfit, overload: turned away by the queue, deadline: too late, device: it does not do its work,
# run: anything else that happened in a run.
Failure = Literal["request", "overload", "deadline", "device", "run"]


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker did since its last report: answers by latency (seconds of handling), failures by kind; ``waiting``
    requests are in its queue now. ``device``: runs for requests of one sample each, by seconds of the device's time.
    """

    latency: Histogram
    failures: Mapping[Failure, int]
    waiting: int = 0
    device: Histogram = field(default_factory=Histogram)

    @property
    def errors(self) -> int:
        """Failures that speak of the model or its device."""
        return self.failures.get("run", 0) + self.failures.get("device", 0)


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
        if requests:
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
