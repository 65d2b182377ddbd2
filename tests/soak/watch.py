"""Whether processes hold more and more: the slope of what was seen of them, after a warm-up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.system.footprint import Footprint, footprints

WARM_UP = 0.25  # of the time: caches fill, allocators take what they will need
FEWEST = 8  # looks at a process, to say anything of it
GROWTH_MB, GROWTH_MB_PER_MIN = 2.0, 0.1  # what a process may grow by: what it reuses comes and goes
FEW = 2  # descriptors and threads likewise


@dataclass(frozen=True, slots=True)
class Trend:
    """What one process held: at first, at last, and what the line through all looks says that it grew by."""

    name: str
    seconds: float
    first: Footprint
    last: Footprint
    grown_mb: float
    grown_descriptors: float
    grown_threads: float

    @property
    def leaks(self) -> bool:
        allowed = GROWTH_MB + GROWTH_MB_PER_MIN * self.seconds / 60
        return self.grown_mb > allowed or max(self.grown_descriptors, self.grown_threads) > FEW

    def __str__(self) -> str:
        first, last = self.first, self.last
        return (
            f"{self.name:10} {self.seconds:5.0f} s  "
            f"{first.private_mb:6.1f} → {last.private_mb:6.1f} MB ({self.grown_mb:+.2f})  "
            f"{first.descriptors:3} → {last.descriptors:3} descriptors ({self.grown_descriptors:+.1f})  "
            f"{first.threads:2} → {last.threads:2} threads{'  LEAKS' if self.leaks else ''}"
        )


@dataclass
class Watch:
    """Looks at a daemon and its descendants."""

    daemon: int
    looks: list[tuple[float, Mapping[str, Footprint]]] = field(default_factory=list)

    def look(self) -> Mapping[str, Footprint]:
        found = footprints(self.daemon)
        self.looks.append((time.monotonic(), found))
        return found

    def trends(self) -> list[Trend]:
        """Of every process that was there long enough."""
        began, end = self.looks[0][0], self.looks[-1][0]
        series: dict[tuple[str, int], list[tuple[float, Footprint]]] = {}
        for at, found in self.looks:
            if at - began >= WARM_UP * (end - began):
                for name, one in found.items():
                    series.setdefault((name, one.pid), []).append((at, one))
        return [_trend(name, looks) for (name, _), looks in series.items() if len(looks) >= FEWEST]


def _trend(name: str, looks: Sequence[tuple[float, Footprint]]) -> Trend:
    times = [at for at, _ in looks]
    seconds = times[-1] - times[0]

    def grown(values: Sequence[float]) -> float:
        return statistics.linear_regression(times, values).slope * seconds

    ones = [one for _, one in looks]
    return Trend(
        name,
        seconds,
        ones[0],
        ones[-1],
        grown([one.private_mb for one in ones]),
        grown([one.descriptors for one in ones]),
        grown([one.threads for one in ones]),
    )
