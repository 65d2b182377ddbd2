"""A run on a board: the device that it is placed on, and of a program on an FPGA the CPU beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulator.physics import BoardState, Interval, Physics
from simulator.speed import RunTime, overlapped_s


@dataclass(frozen=True, slots=True)
class Shared(Interval):
    """Of a program with CPU segments, from its begin to its end: ``own_s`` of the device that it is placed on,
    ``cpu_s`` of the CPU; of a batch they overlap."""

    own_s: float
    cpu_s: float


def reserve_run(
    physics: Physics, state: BoardState, device: int, run: RunTime, time: float, free: float = 0.0
) -> Interval:
    """Reserve the device for a run, and the CPU for its part, each after what is reserved there already; both draw and
    heat. ``Interval.seconds`` is the run's own time: what waited for others is left out. ``free``: when the session's
    run before this one ends, where that is not now: a session runs one at a time.

    A device works off its reservations without a gap, so each part is reserved as one stretch from now on. When it is
    the FPGA's turn, and what overlaps, is in the interval's end. ``Shared`` where there are CPU segments.
    """
    if run.cpu is None:
        return physics.run(state, device, run.once_s + run.samples * run.each_s, time)
    physics.advance(state, time)
    longer, watts = physics.pace(state, device)
    cpu_longer, cpu_watts = physics.pace(state, run.cpu)
    each_s, before_s, after_s = run.each_s * longer, run.before_s * cpu_longer, run.after_s * cpu_longer
    own = physics.reserve(state, device, run.samples * each_s, watts)
    cpu = physics.reserve(state, run.cpu, run.samples * (before_s + after_s), cpu_watts)
    begin = max(free, cpu.start if run.waits else state.time)
    late_s = max(0.0, own.start - begin - before_s)  # packed, and the FPGA not free yet
    seconds = overlapped_s(each_s, before_s, after_s, run.samples)
    end = begin + late_s + seconds
    joules = own.joules + cpu.joules
    if not run.waits:
        return Interval(end - seconds, end, joules)
    return Shared(end - seconds, end, joules, own.seconds, cpu.seconds)


def parts_of(interval: Interval, kind: str) -> Mapping[str, float]:
    """See ``hal.Run.parts``; ``kind``: of the device that the run was reserved on."""
    if isinstance(interval, Shared):
        return {"cpu": interval.cpu_s, kind: interval.own_s}
    return {}
