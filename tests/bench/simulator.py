"""How fast simulated boards are, and how truly real time follows event time.

``sim_hours_per_minute``: hours of a Jetson Orin Nano at one request a second, in event time, per minute here.
``shared_update_us``: one update of the state that processes share, median. ``held_over_us``: how much later than its
modelled end a run of 2 ms returns, median. ``clocks_energy_ratio``: joules of one trace of requests in real time and
in event time, the larger over the smaller.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from simulator.cell import Cell, MemoryCell, SharedCell
from simulator.clock import EventClock, RealClock
from simulator.faults import Timeline
from simulator.physics import Physics
from simulator.profile import load_profile
from tests.bench.harness import Figure, main

BOARD = load_profile("jetson-orin-nano")
REQUESTS = 100_000
UPDATES = 5000
HOLDS = 500
TRACE_S = 4.0


def measure() -> Mapping[str, Figure]:
    with tempfile.TemporaryDirectory(prefix="overlaid-bench-") as folder:
        shared = SharedCell(Path(folder), BOARD, RealClock())
        joules = _joules(shared), _joules(_in_memory())
        return {
            "sim_hours_per_minute": Figure(_hours_per_minute(), "h/min", at_least=1000),
            "shared_update_us": Figure(statistics.median(_updates(shared)), "us"),
            "held_over_us": Figure(statistics.median(_overshoots(shared)), "us"),
            "clocks_energy_ratio": Figure(max(joules) / min(joules), "", at_most=1.02),
        }


def _in_memory() -> MemoryCell:
    return MemoryCell(Physics(BOARD, Timeline(BOARD)), EventClock())


def _hours_per_minute() -> float:
    cell = _in_memory()
    started = time.perf_counter()
    for second in range(REQUESTS):
        cell.clock.wait_until(float(second))
        with cell.update() as moment:
            moment.physics.run(moment.state, 1, 0.005, moment.now)
    return (REQUESTS / 3600) / ((time.perf_counter() - started) / 60)


def _updates(cell: Cell) -> Iterator[float]:
    for _ in range(UPDATES):
        started = time.perf_counter()
        with cell.update():
            pass
        yield (time.perf_counter() - started) * 1e6


def _overshoots(cell: Cell) -> Iterator[float]:
    for _ in range(HOLDS):
        with cell.update() as moment:
            interval = moment.physics.run(moment.state, 1, 0.002, moment.now)
        cell.clock.wait_until(interval.end)
        yield (cell.clock.now() - interval.end) * 1e6


def _joules(cell: Cell) -> float:
    """What requests at random moments draw, and the board beneath them."""
    draw = random.Random(1)
    start = cell.clock.now()
    before = _total(cell)
    moment_s = 0.0
    while (moment_s := moment_s + draw.expovariate(40.0)) < TRACE_S:
        cell.clock.wait_until(start + moment_s)
        with cell.update() as moment:
            moment.physics.run(moment.state, draw.randrange(2), draw.uniform(0.002, 0.03), moment.now)
    cell.clock.wait_until(start + TRACE_S + 1.0)
    return _total(cell) - before


def _total(cell: Cell) -> float:
    with cell.update() as moment:
        return moment.state.base_j + sum(moment.state.device_j)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
