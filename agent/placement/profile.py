"""Measure a candidate: latency from its worker, energy from the node's meters around it."""

from __future__ import annotations

import asyncio
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


async def measure(
    candidate: Candidate,
    accuracy: float | None,
    worker: Profiled,
    meters: Sequence[PowerMeter],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Profile ``worker`` for about ``seconds`` in all: warm-up, then at most MAX_RUNS samples between idle brackets.

    Raises what the worker raises; a meter that fails only makes the energy "missing". Cancelling is safe.
    """
    warm_up_s, idle_s = seconds * WARM_UP_SHARE, seconds * IDLE_SHARE if meters else 0.0
    run_s = seconds - warm_up_s - 2 * idle_s
    await worker.profile(warm_up_s, WARM_UP_RUNS)
    joules: float | None = None
    if meters:
        before, _ = await _metered(asyncio.sleep(idle_s), meters, clock)
        during, (samples, runs) = await _metered(_fill(worker, run_s, clock), meters, clock)
        after, _ = await _metered(asyncio.sleep(idle_s), meters, clock)
        joules = energy_per_run((before, during, after), runs)
    else:
        samples = await worker.profile(run_s, MAX_RUNS)
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
        joules=joules,
        energy=_tag(meters) if joules is not None else "missing",
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


async def _metered(
    work: Awaitable[T], meters: Sequence[PowerMeter], clock: Callable[[], float]
) -> tuple[Bracket | None, T]:
    """The result of ``work`` and what the meters counted meanwhile (None when one could not be read)."""
    task = asyncio.ensure_future(work)
    try:
        first_j, started = _joules(meters), clock()
        last_j: float | None = first_j
        while not task.done():
            await asyncio.wait({task}, timeout=METER_PERIOD_S)
            last_j = _joules(meters) if last_j is not None else None
        seconds = clock() - started
        result = await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if first_j is None or last_j is None:
        return None, result
    return Bracket(last_j - first_j, seconds), result


def _joules(meters: Sequence[PowerMeter]) -> float | None:
    try:
        return sum(meter.joules() for meter in meters)
    except MeterError:
        return None


def _tag(meters: Sequence[PowerMeter]) -> str:
    return "measured" if all(meter.tag == "measured" for meter in meters) else "estimated"
