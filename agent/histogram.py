"""Latency histograms that add up: log-spaced buckets, eight per octave of microseconds (9 % wide)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PER_OCTAVE = 8
MAX_BUCKET = 36 * PER_OCTAVE  # 2**36 us is 19 hours


@dataclass(slots=True)
class Histogram:
    """Counts by bucket index; bucket i covers [2**(i/8), 2**((i+1)/8)) microseconds.

    ``seconds``: the sum of what was added, where its sender tells.
    """

    counts: dict[int, int] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        micros = seconds * 1e6
        index = 0 if micros < 1 else min(MAX_BUCKET, int(math.log2(micros) * PER_OCTAVE))
        self.counts[index] = self.counts.get(index, 0) + 1

    def merge(self, counts: Mapping[int, int]) -> None:
        for index, count in counts.items():
            self.counts[index] = self.counts.get(index, 0) + count

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def below(self, octave: int) -> int:
        """How many were shorter than ``2**octave`` microseconds."""
        return sum(count for index, count in self.counts.items() if index < octave * PER_OCTAVE)

    def over(self, seconds: float) -> int:
        """How many took longer, as far as the buckets tell: those in buckets above the one that holds ``seconds``."""
        micros = seconds * 1e6
        index = 0 if micros < 1 else min(MAX_BUCKET, int(math.log2(micros) * PER_OCTAVE))
        return sum(count for bucket, count in self.counts.items() if bucket > index)

    def percentile_ms(self, fraction: float) -> float | None:
        """Upper edge, in ms, of the bucket that holds the percentile; None when empty."""
        total = self.total
        if total == 0:
            return None
        rank = max(1, math.ceil(fraction * total))
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= rank:
                return float(2.0 ** ((index + 1) / PER_OCTAVE) / 1000.0)
        raise AssertionError("unreachable: ranks end at the total")

    def pairs(self) -> list[tuple[int, int]]:
        """(bucket, count) in order: the form in which a histogram crosses a process or is stored."""
        return sorted(self.counts.items())

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]], seconds: float = 0.0) -> Histogram:
        """Inverse of ``pairs``; ValueError for indices or counts out of range."""
        histogram = cls(seconds=seconds)
        for index, count in pairs:
            if not (0 <= index <= MAX_BUCKET and count >= 0):
                raise ValueError(f"histogram bucket {index}: {count} is out of range")
            histogram.counts[index] = histogram.counts.get(index, 0) + count
        return histogram
