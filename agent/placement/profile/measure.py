"""Measure a candidate: latency from its worker, energy from the node's meters around it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from agent.errors import MeterError
from agent.hal import PowerMeter
from agent.placement.stats import mean, median, p99_upper
from agent.types import Candidate, Measurement

MAX_RUNS = 2000
WARM_UP_RUNS = 20
WARM_UP_SHARE = 0.1  # of the time that was asked for
IDLE_SHARE = 0.2  # on each side, when there is a meter
METER_PERIOD_S = (
    0.02  # between readings: sensors that show watts are integrated, and a sensor's new value is dated
)
FRESH = 3  # new values of each meter that an idle bracket waits for,
MORE_S = 1.0  # for at most this long
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
    """What all meters together showed on average over a stretch of time."""

    watts: float
    seconds: float


async def idle_watts(
    meters: Sequence[PowerMeter], seconds: float, clock: Callable[[], float] = time.monotonic
) -> float | None:
    """What all meters together show over ``seconds``; None without meters or when one could not be read."""
    bracket = await _idle(meters, seconds, clock) if meters else None
    return None if bracket is None else bracket.watts


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
        before = await _idle(meters, idle_s, clock)
        during, (samples, runs) = await _metered(_fill(worker, run_s, clock), meters, clock)
        after = await _idle(meters, idle_s, clock)
        joules = energy_per_run(before, during, after, runs)
        holding_w = holding_watts(before, after, rest_w)
    else:
        samples = await worker.profile(run_s, MAX_RUNS)
    timed = timing(candidate, accuracy, samples, worker.load_s, worker.memory_mb)
    return with_energy(timed, joules, holding_w, rest_w, _tag(meters))


def timing(
    candidate: Candidate, accuracy: float | None, samples: Sequence[float], load_s: float, memory_mb: float
) -> Measurement:
    """The measurement that ``samples`` (device seconds, at least one) make, its energy missing."""
    p99, confidence = p99_upper(samples)
    return Measurement(
        candidate=candidate,
        runs=len(samples),
        mean_ms=mean(samples) * 1e3,
        p50_ms=median(samples) * 1e3,
        p99_ms=p99 * 1e3,
        confidence=confidence,
        load_s=load_s,
        memory_mb=memory_mb,
        accuracy=accuracy,
    )


def with_energy(
    measured: Measurement, joules: float | None, holding_w: float | None, rest_w: float | None, tag: str
) -> Measurement:
    """``measured`` with what a run and holding the model cost, all or nothing: half of it would mislead."""
    if joules is None or holding_w is None:
        return measured
    return replace(measured, joules=joules, energy=tag, holding_w=holding_w, rest_w=rest_w)


async def _fill(worker: Profiled, seconds: float, clock: Callable[[], float]) -> tuple[list[float], int]:
    """At most MAX_RUNS samples and the number of runs: a fast model runs on, because meters are slow."""
    end = clock() + seconds
    samples = await worker.profile(seconds, MAX_RUNS)
    runs = len(samples)
    while (left := end - clock()) > 0:
        runs += len(await worker.profile(left, MAX_RUNS))
    return samples, runs


def energy_per_run(
    before: Bracket | None, during: Bracket | None, after: Bracket | None, runs: int
) -> float | None:
    """Joules of one run above idle: (P - P_idle) * T / runs, from (idle, run, idle).

    None when a bracket is missing, when the watts above idle are not within MIN_WATTS and MAX_WATTS, or when the idle
    brackets differ by more than that: then something else was busy.
    """
    if before is None or during is None or after is None or not runs:
        return None
    above_w = during.watts - _mean_watts(before, after)
    if not max(abs(before.watts - after.watts), MIN_WATTS) <= above_w <= MAX_WATTS:
        return None
    return above_w * during.seconds / runs


def holding_watts(before: Bracket | None, after: Bracket | None, rest_w: float | None) -> float | None:
    """Watts that the loaded model costs while idle, from the idle brackets around its runs and the rest before it.

    0.0 below MIN_HOLDING_W or below what the brackets differ by; None when one of the three is missing.
    """
    if before is None or after is None or rest_w is None:
        return None
    above_w = _mean_watts(before, after) - rest_w
    return above_w if above_w >= max(abs(before.watts - after.watts), MIN_HOLDING_W) else 0.0


def beside(measured: Measurement, running: Measurement | None) -> Measurement:
    """``measured`` without ``running``, the worker of the same model that was loaded meanwhile.

    What that one holds is no part of the rest, and a candidate on its device, which seemed to be held for nothing,
    holds at least as much.
    """
    if running is None or not running.holding_w or measured.holding_w is None or measured.rest_w is None:
        return measured
    same = measured.candidate.device == running.candidate.device
    return replace(
        measured,
        rest_w=max(0.0, measured.rest_w - running.holding_w),
        holding_w=max(measured.holding_w, running.holding_w) if same else measured.holding_w,
    )


def _mean_watts(one: Bracket, other: Bracket) -> float:
    return (one.watts * one.seconds + other.watts * other.seconds) / (one.seconds + other.seconds)


async def _idle(meters: Sequence[PowerMeter], seconds: float, clock: Callable[[], float]) -> Bracket | None:
    """What the meters show while nothing is asked for; longer than ``seconds`` where a meter is slow."""
    counted = _Counted(meters, clock)
    end = clock() + seconds
    while (now := clock()) < end or (not counted.enough and now < end + MORE_S):
        await asyncio.sleep(METER_PERIOD_S)
        counted.read()
    return counted.bracket()


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
    return counted.bracket(), result


@dataclass(slots=True)
class _Seen:
    """What one meter showed: at the start, then its first and its last new value, as (time, joules).

    A sensor has something new only now and then, and its reading at the start may be as old as it is slow. So its
    watts are those between two new values where there were two.
    """

    start: tuple[float, float]
    first: tuple[float, float]
    last: tuple[float, float]
    news: int = 0

    def show(self, time: float, joules: float) -> None:
        if joules != self.last[1]:
            self.last = time, joules
            self.first = self.last if not self.news else self.first
            self.news += 1

    def watts(self, until: float) -> float:
        (then, before), (now, joules) = self.first, self.last
        if self.news < 2:
            (then, before), now = self.start, until
        return (joules - before) / (now - then)


class _Counted:
    """What meters have counted since this was made. One reading that fails or makes no sense spoils it all: NaN,
    a counter that went back, more than MAX_METER_W since the reading before."""

    def __init__(self, meters: Sequence[PowerMeter], clock: Callable[[], float]) -> None:
        self._meters, self._clock = meters, clock
        self._started = self._time = clock()
        starts = [(self._started, joules) for joules in self._joules()]
        self._seen = [_Seen(start, start, start) for start in starts]
        self._spoilt = not starts

    def read(self) -> None:
        """To be called often: sensors that show watts are integrated between readings."""
        joules, now = self._joules(), self._clock()
        # Counters step: between two readings in quick succession a step of a whole period may fall.
        most = MAX_METER_W * max(now - self._time, 0.1)
        steps = [value - seen.last[1] for seen, value in zip(self._seen, joules, strict=False)]
        self._spoilt = self._spoilt or not joules or not all(0 <= step <= most for step in steps)
        self._time = now
        if not self._spoilt:
            for seen, value in zip(self._seen, joules, strict=True):
                seen.show(now, value)

    @property
    def enough(self) -> bool:
        """Every meter has shown FRESH new values, or there is nothing to wait for."""
        return self._spoilt or all(seen.news >= FRESH for seen in self._seen)

    def bracket(self) -> Bracket | None:
        """Until the last reading; None when it is spoilt or took no time."""
        if self._spoilt or self._time <= self._started:
            return None
        return Bracket(sum(seen.watts(self._time) for seen in self._seen), self._time - self._started)

    def _joules(self) -> list[float]:
        """Of every meter; empty when one cannot be read."""
        try:
            joules = [meter.joules() for meter in self._meters]
        except MeterError:
            return []
        return joules if all(map(math.isfinite, joules)) else []


def _tag(meters: Sequence[PowerMeter]) -> str:
    tags = {meter.tag for meter in meters}
    return tags.pop() if len(tags) == 1 else "estimated"
