"""Measure a candidate: latency from its worker, energy from the node's meters around it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.hal import PowerMeter
from agent.placement.profile.energy import (
    energy_per_run,
    energy_sigma,
    holding_watts,
    load_joules,
    with_energy,
)
from agent.placement.profile.gate import Gate
from agent.placement.profile.meters import MORE_S, Clock, Counted, idle, steady, tag_of, watching
from agent.placement.profile.values import Bracket, OpenLoop, Profile, Profiled
from agent.placement.stats import mean, median, p99_upper
from agent.types import Candidate, Measurement

MAX_RUNS = 2000
WARM_UP_RUNS = 20  # at least, and
STEADY = 0.02  # until the medians of two windows in a row differ by less,
WARM_UP_SHARE = 0.15  # but no longer than this of the time that was asked for
WINDOW_RUNS = 10
IDLE_SHARE = 0.1  # before loading and on each side of the runs, when there is a meter
OPEN_SHARE = 0.2  # where the rate leaves gaps
MIN_WINDOWS = 5  # of the meters, that the runs go on for,
ARRIVALS = 5  # at least in the open loop, if need be faster than the rate,
BUSY = 0.7  # of the device: from there on a closed loop says it all
HURRY = 0.3  # but leaving so much of the time idle


@dataclass(slots=True)
class _Runs:
    """Device seconds of at most MAX_RUNS runs; ``count``: of all. ``parts_s``: of all by kind of device."""

    samples: list[float] = field(default_factory=list)
    count: int = 0
    parts_s: dict[str, float] = field(default_factory=dict)

    def add(self, times: Sequence[float], parts: Mapping[str, float]) -> None:
        self.samples += times[: MAX_RUNS - len(self.samples)]
        self.count += len(times)
        for kind, mean_s in parts.items():
            self.parts_s[kind] = self.parts_s.get(kind, 0.0) + mean_s * len(times)

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """See ``Measurement``, by kind."""
        return tuple((kind, self.parts_s[kind] / self.count * 1e3) for kind in sorted(self.parts_s))


async def idle_watts(
    meters: Sequence[PowerMeter], seconds: float, clock: Clock = time.monotonic
) -> float | None:
    """What all meters together show over ``seconds``; None without meters or when one could not be read."""
    bracket = await idle(meters, seconds, steady(clock)) if meters else None
    return None if bracket is None else bracket.watts


async def measure(
    candidate: Candidate,
    accuracy: float | None,
    worker: Profiled,
    meters: Sequence[PowerMeter],
    seconds: float,
    rest_w: float | None,
    *,
    rate_hz: float = 0.0,
    loading: Bracket | None = None,
    gate: Gate | None = None,
    clock: Clock = time.monotonic,
) -> Profile:
    """Profile ``worker`` for about ``seconds`` in all: warm-up, a closed loop between idle brackets, an open loop as at
    ``rate_hz``.

    ``rest_w``: ``idle_watts`` before the worker was there; what idling costs more with it is its holding power.
    ``loading``: what the meters showed while it was loaded. ``gate``: what gives way to models in service, which may
    leave a single run. Raises what the worker raises; a meter that fails only makes the energy "missing". Cancelling
    is safe.
    """
    gate, clock = gate or Gate(), steady(clock)
    warm = await warm_up(worker, seconds * WARM_UP_SHARE, gate, clock)
    open_s = seconds * OPEN_SHARE if open_rate(rate_hz, median(warm), seconds * OPEN_SHARE) else 0.0
    # The time for the rest before loading is counted in, though it has passed.
    idle_s = seconds * IDLE_SHARE if meters else 0.0
    run_s = seconds * (1 - WARM_UP_SHARE) - open_s - 3 * idle_s
    before = during = after = None
    if meters:
        before = await idle(meters, idle_s, clock)
        with watching(meters, clock) as counted:
            runs = await _closed_loop(worker, run_s, gate, clock, counted)
        during = counted.bracket()
        after = await idle(meters, idle_s, clock)
    else:
        runs = await _closed_loop(worker, run_s, gate, clock, None)
    # Where it had to give way, its last runs before are better than next to none.
    samples = runs.samples if not gate.shut else [*warm[-WINDOW_RUNS:], *runs.samples]
    closed = with_energy(
        timing(candidate, accuracy, samples, worker.load_s, worker.memory_mb),
        energy_per_run(before, during, after, runs.count),
        holding_watts(before, after, rest_w),
        rest_w,
        tag_of(meters),
        energy_sigma(before, during, after, runs.count),
        load_joules(loading, rest_w),
    )
    opened = await open_loop(worker, rate_hz, mean(samples), open_s, gate, clock) if open_s else None
    return Profile(replace(closed, parts=runs.parts), opened)


async def warm_up(worker: Profiled, seconds: float, gate: Gate, clock: Clock = time.monotonic) -> list[float]:
    """Run until it is steady, ``seconds`` at most; device seconds of the last window's runs, one at least."""
    left, total, last = seconds, 0, 0.0
    while True:
        window: list[float] = []
        while not window or (len(window) < WINDOW_RUNS and left > 0 and not gate.shut):
            slice_s = await gate.wait(max(0.0, min(left, seconds / 8)))
            times, took_s = await _slice(worker, slice_s, clock)
            left -= took_s
            window += times
        total += len(window)
        before, last = last, median(window)
        is_steady = total >= WARM_UP_RUNS and abs(last - before) <= STEADY * before
        if is_steady or left <= 0 or gate.shut:
            return window


async def _closed_loop(
    worker: Profiled, seconds: float, gate: Gate, clock: Clock, counted: Counted | None
) -> _Runs:
    """One run at least. Without meters MAX_RUNS at most; with them a fast model runs on, and every model for a while
    until they have shown MIN_WINDOWS windows, because meters are slow."""
    runs, spent = _Runs(), 0.0
    while True:
        left = seconds - spent
        slice_s = await gate.wait(left if left > 0 else MORE_S)
        if gate.shut and runs.count:
            return runs
        times, took_s = await _slice(worker, slice_s, clock)
        runs.add(times, worker.parts)
        spent += took_s
        if counted is None:
            if spent >= seconds or runs.count >= MAX_RUNS:
                return runs
            continue
        counted.read()
        if spent >= seconds and (counted.news > MIN_WINDOWS or spent >= seconds + MORE_S):
            return runs


async def _slice(worker: Profiled, seconds: float, clock: Clock) -> tuple[list[float], float]:
    """Device seconds of runs, and what they took in all: at least their sum, whatever the clock does."""
    began = clock()
    times = await worker.profile(seconds, MAX_RUNS if seconds > 0 else 1)
    return times, max(clock() - began, sum(times))


def open_rate(rate_hz: float, mean_s: float, seconds: float) -> float | None:
    """The rate for an open loop of ``seconds``: the intended one, or what brings a few requests, at the price of
    shorter gaps. None where no gaps are left, or nobody would come."""
    if not 0 <= rate_hz * mean_s < BUSY or not seconds > 0:
        return None
    hurried_hz = ARRIVALS / seconds
    if hurried_hz * mean_s > HURRY:
        hurried_hz = HURRY / mean_s
    rate = max(rate_hz, hurried_hz)
    return rate if rate * seconds >= 1 else None


async def open_loop(
    worker: Profiled, rate_hz: float, mean_s: float, seconds: float, gate: Gate, clock: Clock = time.monotonic
) -> OpenLoop | None:
    """Requests for about ``seconds`` as at ``rate_hz``; None where that makes no sense or nobody came."""
    rate = open_rate(rate_hz, mean_s, seconds)
    if rate is None:
        return None
    latencies: list[float] = []
    spent = 0.0
    for seed in itertools.count(1):
        slice_s = await gate.wait(seconds - spent)
        if gate.shut or spent >= seconds or len(latencies) >= MAX_RUNS:
            break
        began = clock()
        latencies += await worker.open_loop(slice_s, rate, seed)
        await asyncio.sleep(max(0.0, slice_s - (clock() - began)))  # nobody came any more
        spent += slice_s
    if not latencies:
        return None
    p99_s, confidence = p99_upper(latencies)
    return OpenLoop(rate_hz, len(latencies), p99_s * 1e3, confidence)


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
