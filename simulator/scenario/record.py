"""What happened in a scenario, in memory that requests do not add to: counts and histograms by time bin."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from agent.types import Candidate
from simulator.cell import MemoryCell

MAX_BINS = 600
SAMPLE_S = 1.0
PER_OCTAVE = 64  # latency buckets are 1.1 % wide


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a model goes and why: decided at ``decided_s``, in force at ``time_s``. Equal candidates: it stays."""

    decided_s: float
    time_s: float
    model: str
    old: Candidate | None
    new: Candidate | None
    trigger: str
    reason: str


@dataclass(slots=True)
class Served:
    """The answered requests of a model on one candidate. ``bins``: time bin → latency bucket → count."""

    within: int = 0
    joules: float = 0.0
    bins: dict[int, dict[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Sample:
    """A time bin of the board: energies in J, the highest temperatures and throttle levels by zone."""

    seconds: float
    base_j: float
    device_j: list[float]
    temp_c: list[float]
    level: list[int]
    cap_w: float | None


class ModelRecord:
    """One model's requests, times in seconds since the start."""

    def __init__(self, budget_ms: float, bin_s: float) -> None:
        self._budget_s, self._bin_s = budget_ms / 1e3, bin_s
        self.requests = 0
        self.served: dict[Candidate, Served] = {}
        self.failures: Counter[str] = Counter()
        self.failed_bins: Counter[int] = Counter()

    def done(self, candidate: Candidate, arrived: float, latency_s: float, joules: float) -> None:
        served = self.served.get(candidate)
        if served is None:
            served = self.served[candidate] = Served()
        if latency_s <= self._budget_s:
            served.within += 1
        served.joules += joules
        number = int(arrived / self._bin_s)
        counts = served.bins.get(number)
        if counts is None:
            counts = served.bins[number] = {}
        bucket = int(math.log2(max(1.0, latency_s * 1e6)) * PER_OCTAVE)
        counts[bucket] = counts.get(bucket, 0) + 1

    def failed(self, arrived: float, why: str) -> None:
        self.failures[why] += 1
        self.failed_bins[int(arrived / self._bin_s)] += 1


def percentile_ms(counts: dict[int, int], fraction: float) -> float | None:
    """The middle of the bucket that holds the percentile: within 0.6 % of it. None without requests."""
    rank = max(1, math.ceil(fraction * sum(counts.values())))
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank <= 0:
            return float(2.0 ** ((bucket + 0.5) / PER_OCTAVE) / 1e3)
    return None


class BoardRecord:
    """The board's energy and heat, sampled every second from ``start`` (board time) on."""

    def __init__(self, cell: MemoryCell, start: float, bin_s: float) -> None:
        self._cell, self._start, self._bin_s = cell, start, bin_s
        state = cell.state
        self._first = self._last = (start, state.base_j, list(state.device_j))
        self.bins: list[Sample] = []
        self.peak_w = 0.0
        self.throttled_s = 0.0
        self.over_cap_s = 0.0
        self.highest_c = list(state.temp_c)

    @property
    def base_j(self) -> float:
        return self._last[1] - self._first[1]

    @property
    def device_j(self) -> list[float]:
        return [now - then for now, then in zip(self._last[2], self._first[2], strict=True)]

    def sample(self, now: float, cap_w: float | None) -> None:
        """What happened since the last sample. ``cap_w``: the cap that held meanwhile."""
        self._cell.physics.advance(self._cell.state, now)
        state, (then, base_j, device_j) = self._cell.state, self._last
        seconds = now - then
        if seconds <= 0:
            return
        base = state.base_j - base_j
        devices = [now_j - then_j for now_j, then_j in zip(state.device_j, device_j, strict=True)]
        watts = (base + sum(devices)) / seconds
        self.peak_w = max(self.peak_w, watts)
        self.throttled_s += seconds if any(state.level) else 0.0
        self.over_cap_s += seconds if cap_w is not None and watts > cap_w else 0.0
        self.highest_c = [max(pair) for pair in zip(self.highest_c, state.temp_c, strict=True)]
        self._last = now, state.base_j, list(state.device_j)
        number = int((then - self._start) / self._bin_s + 1e-6)
        if number < len(self.bins):
            merged = self.bins[number]
            merged.seconds += seconds
            merged.base_j += base
            merged.device_j = [a + b for a, b in zip(merged.device_j, devices, strict=True)]
            merged.temp_c = [max(pair) for pair in zip(merged.temp_c, state.temp_c, strict=True)]
            merged.level = [max(pair) for pair in zip(merged.level, state.level, strict=True)]
            merged.cap_w = cap_w
        else:
            self.bins.append(Sample(seconds, base, devices, list(state.temp_c), list(state.level), cap_w))
