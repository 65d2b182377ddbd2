"""Run a scenario, from event to event or in real time. No model is computed: devices and requests are modelled."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.types import Measurement, Verdict
from simulator.cell import MemoryCell
from simulator.clock import Clock
from simulator.faults import Happening, Timeline
from simulator.physics import Physics
from simulator.profile import BoardProfile, load_profile
from simulator.scenario.agenda import Agenda
from simulator.scenario.files import Scenario
from simulator.scenario.measure import place
from simulator.scenario.node import Node, Service
from simulator.scenario.record import MAX_BINS, SAMPLE_S, BoardRecord, Decision, ModelRecord
from simulator.scenario.workload import Workload

Progress = Callable[[float], None]  # is given scenario seconds


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """``refused``: why the node did not take the model; nothing was asked of it then."""

    workload: Workload
    record: ModelRecord
    verdicts: tuple[Verdict, ...]
    refused: str


@dataclass(frozen=True, slots=True)
class Outcome:
    scenario: Scenario
    cell: MemoryCell
    bin_s: float
    board: BoardRecord
    models: tuple[ModelOutcome, ...]
    decisions: tuple[Decision, ...]
    wall_s: float


def run_scenario(
    scenario: Scenario, workloads: Sequence[Workload], clock: Clock, progress: Progress = lambda _: None
) -> Outcome:
    """What happened. The models are loaded before the start; a fault at 0 s holds from the loading on."""
    wall = time.perf_counter()
    profile = load_profile(scenario.board)
    bin_s = float(max(SAMPLE_S, math.ceil(scenario.duration_s / MAX_BINS)))
    began = clock.now()
    origin = began + _loading_s(profile, len(workloads))
    cell = MemoryCell(Physics(profile, _timeline(profile, scenario, began, origin), scenario.seed), clock)
    agenda = Agenda()
    node = Node(cell, agenda, origin, scenario.power_cap_w)
    models, running, before_w = [], list[Measurement](), 0.0
    for workload in workloads:
        choice = place(profile, scenario.seed, workload, running, before_w, scenario.power_cap_w)
        record = ModelRecord(workload.budget.latency_p99_ms, bin_s)
        models.append(
            ModelOutcome(workload, record, choice.verdicts, "" if choice.candidate else choice.reason)
        )
        if choice.candidate is None or choice.measurement is None:
            continue
        running.append(choice.measurement)
        before_w += (choice.measurement.joules or 0.0) * workload.budget.rate_hz
        service = Service(workload, record, choice.candidate, choice.verdicts, choice.reason)
        agenda.add(began, functools.partial(node.deploy, service))
        _Requests(node, service, agenda, origin, workload.arrivals(scenario.seed, scenario.duration_s))
    _work_off(agenda, clock, origin)
    cell.physics.advance(cell.state, origin)
    board = BoardRecord(cell, origin, bin_s)
    for cap in scenario.caps:
        agenda.add(origin + cap.at_s, functools.partial(_change_cap, board, node, cap.watts))
    _Samples(board, node, agenda, origin, progress)
    _work_off(agenda, clock, origin + scenario.duration_s)
    board.sample(origin + scenario.duration_s, node.cap_w)
    return Outcome(
        scenario, cell, bin_s, board, tuple(models), tuple(node.decisions), time.perf_counter() - wall
    )


def _work_off(agenda: Agenda, clock: Clock, end: float) -> None:
    """All that happens before ``end``."""
    while agenda.next_time < end:
        moment, act = agenda.pop()
        clock.wait_until(moment)
        act(moment)
    clock.wait_until(end)


class _Requests:
    """A model's requests, each put on the agenda by the one before."""

    def __init__(
        self, node: Node, service: Service, agenda: Agenda, origin: float, arrivals: Iterator[float]
    ) -> None:
        self._node, self._service, self._agenda = node, service, agenda
        self._origin, self._arrivals = origin, arrivals
        self._next()

    def _next(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self._agenda.add(self._origin + arrival, self._arrive)

    def _arrive(self, now: float) -> None:
        self._node.request(self._service, now)
        self._next()


def _change_cap(board: BoardRecord, node: Node, cap_w: float | None, now: float) -> None:
    board.sample(now, node.cap_w)  # until now the cap before held
    node.set_cap(cap_w, now)


class _Samples:
    """The board, sampled every second."""

    def __init__(
        self, board: BoardRecord, node: Node, agenda: Agenda, origin: float, progress: Progress
    ) -> None:
        self._board, self._node, self._agenda = board, node, agenda
        self._origin, self._progress = origin, progress
        self._count = 0
        self._next()

    def _next(self) -> None:
        self._count += 1
        self._agenda.add(self._origin + self._count * SAMPLE_S, self._sample)

    def _sample(self, now: float) -> None:
        self._board.sample(now, self._node.cap_w)
        self._progress(now - self._origin)
        self._next()


def _loading_s(profile: BoardProfile, models: int) -> float:
    """Time enough for every model to be loaded on every device."""
    return models * sum(d.load_s + (d.overlay.load_s if d.overlay else 0.0) for d in profile.devices) + 0.1


def _timeline(profile: BoardProfile, scenario: Scenario, began: float, origin: float) -> Timeline:
    happenings = [Happening.of(fault, origin) for fault in scenario.faults]
    return Timeline(profile, [replace(h, start=began) if h.start == origin else h for h in happenings])
