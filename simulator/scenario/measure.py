"""What a node measures of a candidate before it decides, on the modelled board in event time."""

from __future__ import annotations

from collections.abc import Iterable

from agent.devices.cpu import CpuDevice
from agent.errors import DeviceError, one_line
from agent.placement import plan
from agent.placement.profile import Bracket, energy_per_run, holding_watts, timing, with_energy
from agent.types import Candidate, Measurement, Verdict
from simulator.board import SimDevice, modelled_board
from simulator.cell import MemoryCell
from simulator.clock import EventClock
from simulator.faults import Timeline
from simulator.physics import Physics
from simulator.profile import BASE, BoardProfile
from simulator.scenario.workload import Workload
from simulator.speed import run_seconds
from simulator.work import Work

RUNS = 500  # 459 vouch for a 99th percentile at 99 %
IDLE_S = 1.0
TAG = "simulated"


def place(
    profile: BoardProfile,
    seed: int,
    workload: Workload,
    before: Iterable[Measurement],
    before_w: float,
    cap_w: float | None,
) -> plan.Choice:
    """The node's first choice for a model, from every candidate's measurement.

    ``before``: the models deployed earlier, which are loaded meanwhile; ``before_w``: what their requests draw.
    """
    candidates, failed = plan.candidates_for(workload.variants, modelled_board(profile))
    accuracy = {variant.name: variant.accuracy for variant in workload.variants}
    failures, measured = list(failed), []
    held = [m.candidate.device for m in before]
    for candidate in candidates:
        work = workload.work[candidate.variant]
        try:
            measured.append(
                _measure(profile, seed, candidate, work, accuracy[candidate.variant], held, before_w)
            )
        except DeviceError as error:
            failures.append(Verdict(candidate, False, f"{error.name}: {one_line(error)}"))
    return plan.choose(workload.budget, measured, failures, cap_w)


def _measure(
    profile: BoardProfile,
    seed: int,
    candidate: Candidate,
    work: Work,
    accuracy: float | None,
    held: Iterable[str],
    before_w: float,
) -> Measurement:
    """Closed loop between idle brackets, as ``placement.profile.measure`` does it in real time."""
    cell = MemoryCell(Physics(profile, Timeline(profile), seed), EventClock())
    ids = [device.id for device in profile.devices]
    index = ids.index(candidate.device)
    for other in held:
        cell.hold(ids.index(other))
    rest = _idle(cell)
    device = SimDevice(cell, candidate.device, CpuDevice())
    began = cell.clock.now()
    cell.clock.wait_until(device.begin_load(work))
    load_s = cell.clock.now() - began
    cell.hold(index)
    before = _idle(cell)
    started, start_j = cell.clock.now(), _joules(cell)
    samples = _closed_loop(cell, index, run_seconds(profile.devices[index], work))
    during = _bracket(cell, started, start_j)
    after = _idle(cell)
    joules = holding_w = None
    if profile.rails:
        joules = energy_per_run(before, during, after, len(samples))
        holding_w = holding_watts(before, after, rest.watts)
    timed = timing(candidate, accuracy, samples, load_s, work.nbytes / 1e6)
    return with_energy(timed, joules, holding_w, rest.watts + before_w, TAG)


def _closed_loop(cell: MemoryCell, device: int, run_s: float) -> list[float]:
    samples = []
    for _ in range(RUNS):
        interval = cell.physics.run(cell.state, device, run_s, cell.clock.now())
        samples.append(interval.seconds)
        cell.clock.wait_until(interval.end)
    return samples


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
