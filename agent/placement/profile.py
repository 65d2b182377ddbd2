"""Measure a candidate: latency from its worker, energy from the node's meters around it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agent.errors import MeterError
from agent.hal import PowerMeter
from agent.placement.stats import mean, median, p99_upper
from agent.types import Candidate, Measurement

MAX_RUNS = 2000
WARM_UP_RUNS = 20
WARM_UP_SHARE = 0.1  # of the time that was asked for
IDLE_SHARE = 0.2  # on each side, when there is a meter
METER_PERIOD_S = 0.05  # sensors that show watts are integrated between readings
MIN_WATTS, MAX_WATTS = 1e-3, 1e3  # above idle: less is below what sensors resolve, more is a glitch
MIN_HOLDING_W = 0.010  # what a loaded model costs at least to be told from noise
MAX_METER_W = 1e4  # of one meter between two readings: more is a glitch
T = TypeVar("T")


class Profiled(Protocol):
    """The worker that runs the candidate. ``memory_mb`` is known after a run."""

    load_s: float
    memory_mb: float

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        """Device seconds of each run in a closed loop, until the time or the number is over; at least one.

        Bounds itself in time: WorkerTimeout, or WorkerCrashed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Bracket:
    """Energy of all meters together over a stretch of time."""

    joules: float
    seconds: float


async def idle_watts(
    meters: Sequence[PowerMeter], seconds: float, clock: Callable[[], float] = time.monotonic
) -> float | None:
    """What all meters together show over ``seconds``; None without meters or when one could not be read."""
    if not meters:
        return None
    bracket, _ = await _metered(asyncio.sleep(seconds), meters, clock)
    return None if bracket is None or bracket.seconds <= 0 else bracket.joules / bracket.seconds


async def measure(
    candidate: Candidate,
    accuracy: float | None,
    worker: Profiled,
    meters: Sequence[PowerMeter],
    seconds: float,
    rest_w: float | None,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Profile ``worker`` for about ``seconds`` in all: warm-up, then at most MAX_RUNS samples between idle brackets.

    ``rest_w``: ``idle_watts`` before the worker was there; what idling costs more with it is its holding power.
    Raises what the worker raises; a meter that fails only makes the energy "missing". Cancelling is safe.
    """
    warm_up_s, idle_s = seconds * WARM_UP_SHARE, seconds * IDLE_SHARE if meters else 0.0
    run_s = seconds - warm_up_s - 2 * idle_s
    await worker.profile(warm_up_s, WARM_UP_RUNS)
    joules = holding_w = None
    if meters:
        before, _ = await _metered(asyncio.sleep(idle_s), meters, clock)
        during, (samples, runs) = await _metered(_fill(worker, run_s, clock), meters, clock)
        after, _ = await _metered(asyncio.sleep(idle_s), meters, clock)
        joules = energy_per_run((before, during, after), runs)
        holding_w = holding_watts(before, after, rest_w)
    else:
        samples = await worker.profile(run_s, MAX_RUNS)
    known = joules is not None and holding_w is not None
    p99, confidence = p99_upper(samples)
    return Measurement(
        candidate=candidate,
        runs=len(samples),
        mean_ms=mean(samples) * 1e3,
        p50_ms=median(samples) * 1e3,
        p99_ms=p99 * 1e3,
        confidence=confidence,
        load_s=worker.load_s,
        memory_mb=worker.memory_mb,
        accuracy=accuracy,
        joules=joules if known else None,
        energy=_tag(meters) if known else "missing",
        holding_w=holding_w if known else None,
        rest_w=rest_w if known else None,
    )


async def _fill(worker: Profiled, seconds: float, clock: Callable[[], float]) -> tuple[list[float], int]:
    """At most MAX_RUNS samples and the number of runs: a fast model runs on, because meters are slow."""
    end = clock() + seconds
    samples = await worker.profile(seconds, MAX_RUNS)
    runs = len(samples)
    while (left := end - clock()) > 0:
        runs += len(await worker.profile(left, MAX_RUNS))
    return samples, runs


def energy_per_run(brackets: Sequence[Bracket | None], runs: int) -> float | None:
    """Joules of one run above idle: (J - P_idle * T) / runs, from (idle, run, idle).

    None when a bracket is missing, when the watts above idle are not within MIN_WATTS and MAX_WATTS, or when the idle
    brackets differ by more than that: then something else was busy.
    """
    known = [bracket for bracket in brackets if bracket is not None and bracket.seconds > 0]
    if len(known) != 3 or not runs:
        return None
    before, during, after = known
    idle_w = (before.joules + after.joules) / (before.seconds + after.seconds)
    drift_w = abs(before.joules / before.seconds - after.joules / after.seconds)
    above_w = during.joules / during.seconds - idle_w
    if not max(drift_w, MIN_WATTS) <= above_w <= MAX_WATTS:
        return None
    return above_w * during.seconds / runs


def holding_watts(before: Bracket | None, after: Bracket | None, rest_w: float | None) -> float | None:
    """Watts that the loaded model costs while idle, from the idle brackets around its runs and the rest before it.

    0.0 below MIN_HOLDING_W or below what the brackets differ by; None when one of the three is missing.
    """
    if before is None or after is None or rest_w is None or not (before.seconds > 0 and after.seconds > 0):
        return None
    above_w = (before.joules + after.joules) / (before.seconds + after.seconds) - rest_w
    drift_w = abs(before.joules / before.seconds - after.joules / after.seconds)
    return above_w if above_w >= max(drift_w, MIN_HOLDING_W) else 0.0


async def _metered(
    work: Awaitable[T], meters: Sequence[PowerMeter], clock: Callable[[], float]
) -> tuple[Bracket | None, T]:
    """The result of ``work`` and what the meters counted meanwhile (None when one could not be read)."""
    task = asyncio.ensure_future(work)
    try:
        counted = _Counted(meters, clock)
        while not task.done():
            await asyncio.wait({task}, timeout=METER_PERIOD_S)
            counted.read()
        result = await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    return counted.bracket, result


class _Counted:
    """What meters have counted since this was made. One reading that fails or makes no sense spoils it all: NaN,
    a counter that went back, more than MAX_METER_W since the reading before."""

    def __init__(self, meters: Sequence[PowerMeter], clock: Callable[[], float]) -> None:
        self._meters, self._clock = meters, clock
        self._last = self._first = self._joules()
        self._time = self._started = clock()

    def read(self) -> None:
        """To be called often: sensors that show watts are integrated between readings."""
        joules, now = self._joules(), self._clock()
        # Counters step: between two readings in quick succession a step of a whole period may fall.
        most = MAX_METER_W * max(now - self._time, METER_PERIOD_S)
        if self._last is not None and joules is not None:
            sane = all(0 <= b - a <= most for a, b in zip(self._last, joules, strict=True))
            self._last = joules if sane else None
        else:
            self._last = None
        self._time = now

    @property
    def bracket(self) -> Bracket | None:
        """Until the last reading; None when it is spoilt."""
        if self._first is None or self._last is None:
            return None
        return Bracket(sum(self._last) - sum(self._first), self._time - self._started)

    def _joules(self) -> list[float] | None:
        try:
            joules = [meter.joules() for meter in self._meters]
        except MeterError:
            return None
        return joules if all(map(math.isfinite, joules)) else None


def _tag(meters: Sequence[PowerMeter]) -> str:
    tags = {meter.tag for meter in meters}
    return tags.pop() if len(tags) == 1 else "estimated"
