"""What measuring a candidate gives. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from agent.types import Measurement


class Profiled(Protocol):
    """The worker that runs the candidate. ``memory_mb`` is known after a run; ``parts``: see ``Worker``."""

    load_s: float
    memory_mb: float

    @property
    def parts(self) -> Mapping[str, float]: ...

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        """Device seconds of each run in a closed loop, until the time or the number is over; at least one.

        Bounds itself in time: WorkerTimeout, or WorkerCrashed.
        """
        ...

    async def open_loop(self, seconds: float, rate_hz: float, seed: int) -> list[float]:
        """Device seconds from arrival to answer of requests that come at random for ``seconds``; none, maybe.

        Raises what ``profile`` raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Bracket:
    """What all meters together showed on average over a stretch of time.

    ``windows``: the watts of equal parts of it, oldest first; empty where the meters showed too little for two.
    """

    watts: float
    seconds: float
    windows: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Latencies (waiting included) of requests that came as at ``rate_hz``; ``p99_ms``: upper bound at
    ``confidence``."""

    rate_hz: float
    runs: int
    p99_ms: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Profile:
    """All that is known of a candidate. ``closed``: its measurement by the closed loop alone, whatever the rate."""

    closed: Measurement
    open: OpenLoop | None = None

    @property
    def measurement(self) -> Measurement:
        """With the larger of the two bounds. How sure it is stays what the closed loop's many runs make it: the open
        loop's can raise the bound only."""
        if self.open is None:
            return self.closed
        p99_ms = max(self.closed.p99_ms, self.open.p99_ms)
        return replace(self.closed, p99_ms=p99_ms, open_p99_ms=self.open.p99_ms)
