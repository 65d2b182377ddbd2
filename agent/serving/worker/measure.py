"""What a session is asked before it serves: golden vectors, and how long runs take, also those for several requests."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from agent.devices.golden import compare
from agent.errors import GoldenMismatch, InferenceError
from agent.hal import Run, Session
from agent.serving.arrivals import arrivals
from agent.serving.protocol.data import Array
from agent.serving.spec import WorkerSpec
from agent.serving.worker.batches import join, joinable, split
from agent.serving.worker.checks import GoldenData

BATCHES = (1, 2, 4, 8)
MIN_RUNS, MAX_RUNS = 3, 250  # of each batch size; their times must fit one control message


def check(session: Session, spec: WorkerSpec) -> float:
    """Median wall seconds of the golden runs; GoldenMismatch with the numbers, TensorError when their files do not
    fit."""
    golden = GoldenData(spec.golden, spec.file)
    walls = []
    for sample in range(spec.golden.count):
        run = session.run(golden.inputs(sample))
        walls.append(run.wall_s)
        problem = compare(run.outputs, golden.outputs(sample), spec.golden.atol, spec.golden.rtol)
        if problem:
            raise GoldenMismatch(f"{spec}: golden sample {sample + 1} of {spec.golden.count}: {problem}")
    return statistics.median(walls)


def profile(session: Session, golden: GoldenData, seconds: float, max_runs: int) -> list[Run]:
    """Runs back to back over the golden inputs, without what they answered; one at least."""
    runs: list[Run] = []
    end = time.monotonic() + seconds
    while not runs or (len(runs) < max_runs and time.monotonic() < end):
        runs.append(_timed_run(session, golden, len(runs)))
    return runs


def open_loop(
    session: Session, golden: GoldenData, seconds: float, rate_hz: float, seed: int
) -> list[tuple[float, Run]]:
    """Runs over the golden inputs when ``arrivals`` says, with these moments; none, maybe.

    The device idles between them as it will in service. Who is behind hurries; at most twice as long as asked for.
    """
    runs: list[tuple[float, Run]] = []
    began = time.monotonic()
    for arrival in arrivals(seconds, rate_hz, seed):
        now = time.monotonic() - began
        if now > 2 * seconds:
            break
        time.sleep(max(0.0, arrival - now))
        runs.append((arrival, _timed_run(session, golden, len(runs))))
    return runs


def _timed_run(session: Session, golden: GoldenData, number: int) -> Run:
    return replace(session.run(golden.inputs(number % golden.count)), outputs={})


def batch_times(session: Session, spec: WorkerSpec, seconds: float, limit_s: float) -> dict[int, list[float]]:
    """Device seconds of runs that answer 1, 2, 4 and 8 requests, for about ``seconds`` in all.

    Ends with the first size that takes longer than ``limit_s``. InferenceError when a sample's answer depends on those
    beside it: such a model must not be given several requests at once.
    """
    if not joinable(session.inputs, session.outputs):
        raise InferenceError("not every tensor's first dimension is free")
    samples = _samples(spec)
    alone = [session.run(sample).outputs for sample in samples]
    times: dict[int, list[float]] = {}
    end = time.monotonic() + seconds
    for size in BATCHES:
        if time.monotonic() > end:
            break
        _check_apart(session, spec, samples[:size], alone[:size])
        times[size] = _timed(session, join(samples[:size]), seconds / len(BATCHES))
        if statistics.median(times[size]) > limit_s:
            break
    return times


def _samples(spec: WorkerSpec) -> list[Mapping[str, Array]]:
    """Eight that differ: golden ones, and those turned round by a few places, whose values are as typical."""
    golden = GoldenData(spec.golden, spec.file)
    count = spec.golden.count
    return [
        {name: _turned(array, index // count) for name, array in golden.inputs(index % count).items()}
        for index in range(max(BATCHES))
    ]


def _turned(array: Array, places: int) -> Array:
    return np.roll(array.reshape(-1), places * max(1, array.size // len(BATCHES))).reshape(array.shape)


def _check_apart(
    session: Session,
    spec: WorkerSpec,
    samples: list[Mapping[str, Array]],
    alone: list[Mapping[str, Array]],
) -> None:
    together = split(session.run(join(samples)).outputs, [1] * len(samples))
    for one, want in zip(together, alone, strict=True):
        problem = compare(one, want, spec.golden.atol, spec.golden.rtol)
        if problem:
            raise InferenceError(f"answers depend on what else is in the run: {problem}")


def _timed(session: Session, tensors: Mapping[str, Array], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < MIN_RUNS or (len(times) < MAX_RUNS and time.monotonic() < end):
        times.append(session.run(tensors).device_s)
    return times
