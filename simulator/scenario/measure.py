"""What a node measures of a model's candidates before it decides, on the modelled board in event time."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.devices.cpu import CpuDevice
from agent.errors import DeviceError, one_line
from agent.placement.planning.candidates import candidates_for
from agent.placement.profile import Bracket, energy_per_run, holding_watts, timing, with_energy
from agent.placement.stats import p99_upper
from agent.types import Candidate, Measurement, Verdict
from simulator.board import SimDevice, modelled_board
from simulator.cell import MemoryCell
from simulator.clock import EventClock
from simulator.faults import Timeline
from simulator.physics import Interval, Physics
from simulator.profile import BASE, BoardProfile
from simulator.runs import parts_of, reserve_run
from simulator.scenario.workload import Workload
from simulator.speed import RunTime, run_time

RUNS = 500  # 459 vouch for a 99th percentile at 99 %
OPEN_RUNS = 2000  # waits follow each other, so that it takes more of them to tell
WINDOWS = 5  # of equal numbers of runs, whose energies tell how sure their mean is
IDLE_S = 1.0
TAG = "simulated"


@dataclass(frozen=True, slots=True)
class Profiled:
    """A model's candidates: what was measured, and why the others were not."""

    measurements: tuple[Measurement, ...]
    failed: tuple[Verdict, ...]


def measure_rest(profile: BoardProfile) -> float | None:
    """Watts that the board's sensors together show without any model; None without a sensor."""
    if not profile.rails:
        return None
    return _idle(MemoryCell(Physics(profile, Timeline(profile)), EventClock())).watts


def measure_model(profile: BoardProfile, seed: int, workload: Workload) -> Profiled:
    """Every candidate, alone on the board and without faults."""
    candidates, failed = candidates_for(workload.variants, modelled_board(profile))
    failures, measured = list(failed), []
    for candidate in candidates:
        try:
            measured.append(_measure(profile, seed, candidate, workload))
        except DeviceError as error:
            failures.append(Verdict(candidate, False, f"{error.name}: {one_line(error)}"))
    return Profiled(tuple(measured), tuple(failures))


def _measure(profile: BoardProfile, seed: int, candidate: Candidate, workload: Workload) -> Measurement:
    """Closed loop between idle brackets, as ``placement.profile`` does it in real time, then open loop."""
    work = workload.work[candidate.variant]
    cell = MemoryCell(Physics(profile, Timeline(profile), seed), EventClock())
    index = [device.id for device in profile.devices].index(candidate.device)
    rest = _idle(cell)
    device = SimDevice(cell, candidate.device, CpuDevice())
    began, began_j = cell.clock.now(), _joules(cell)
    cell.clock.wait_until(device.begin_load(work))
    load_s = cell.clock.now() - began
    load_j = _joules(cell) - began_j - rest.watts * load_s
    cell.hold(index)
    before = _idle(cell)
    started, start_j = cell.clock.now(), _joules(cell)
    run = run_time(profile, index, work)
    runs: list[Interval] = []
    windows = []
    for _ in range(WINDOWS):
        window_s, window_j = cell.clock.now(), _joules(cell)
        runs += _closed_loop(cell, index, run, RUNS // WINDOWS)
        windows.append(_bracket(cell, window_s, window_j))
    samples = [each.seconds for each in runs]
    during = _bracket(cell, started, start_j)
    after = _idle(cell)
    accuracy = next(v.accuracy for v in workload.variants if v.name == candidate.variant)
    timed = timing(candidate, accuracy, samples, load_s, work.nbytes / 1e6)
    open_ms = _open_loop(samples, workload.budget.rate_hz, f"{seed}/{workload.name}/{candidate}")
    timed = replace(
        timed,
        open_p99_ms=open_ms,
        p99_ms=max(timed.p99_ms, open_ms or 0.0),
        overlay=work.overlay if profile.devices[index].overlay is not None else None,
        parts=_parts(runs, profile.devices[index].kind),
    )
    if not profile.rails:
        return timed
    joules = energy_per_run(before, during, after, len(samples))
    each = [energy_per_run(before, window, after, RUNS // WINDOWS) for window in windows]
    known = [one for one in each if one is not None]
    sigma = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    holding_w = holding_watts(before, after, rest.watts)
    full = with_energy(timed, joules, holding_w, rest.watts, TAG)
    return full if full.joules is None else replace(full, joules_sigma=sigma, load_j=max(0.0, load_j))


def _open_loop(samples: Sequence[float], rate_hz: float, seed: str) -> float | None:
    """The bound of p99 in ms, waits included, when requests come at random at this rate and take times out of
    ``samples``; None where they would queue up without end. (On a modelled board a run takes the same at any rate.)"""
    if not rate_hz or rate_hz * statistics.fmean(samples) >= 1.0:
        return None
    draw = random.Random(seed)  # noqa: S311
    arrival = free = 0.0
    latencies = []
    for _ in range(OPEN_RUNS):
        arrival += draw.expovariate(rate_hz)
        free = max(free, arrival) + draw.choice(samples)
        latencies.append(free - arrival)
    return p99_upper(latencies)[0] * 1e3


def _parts(runs: Sequence[Interval], kind: str) -> tuple[tuple[str, float], ...]:
    """Mean ms of a run by kind of device; empty when all is on one."""
    parts = [parts_of(run, kind) for run in runs]
    return tuple((each, statistics.fmean(part[each] for part in parts) * 1e3) for each in sorted(parts[0]))


def _closed_loop(cell: MemoryCell, device: int, run: RunTime, count: int) -> list[Interval]:
    runs = []
    for _ in range(count):
        runs.append(reserve_run(cell.physics, cell.state, device, run, cell.clock.now()))
        cell.clock.wait_until(runs[-1].end)
    return runs


def _idle(cell: MemoryCell) -> Bracket:
    started, start_j = cell.clock.now(), _joules(cell)
    cell.clock.wait_until(started + IDLE_S)
    return _bracket(cell, started, start_j)


def _bracket(cell: MemoryCell, started: float, start_j: float) -> Bracket:
    seconds = cell.clock.now() - started
    return Bracket((_joules(cell) - start_j) / seconds, seconds)


def _joules(cell: MemoryCell) -> float:
    """Of all parts that a sensor of the board sees, each once."""
    seen = {part for rail in cell.profile.rails for part in rail.measures}
    with cell.update() as moment:
        parts = zip(cell.profile.devices, moment.state.device_j, strict=True)
        joules = sum(joule for device, joule in parts if device.id in seen)
        return joules + (moment.state.base_j if BASE in seen else 0.0)
