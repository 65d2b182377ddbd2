"""Run a scenario, from event to event or in real time. No model is computed: devices and requests are modelled."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.placement import demand
from agent.placement.adapting.look import Move
from agent.placement.planning.plan import plan
from agent.types import Verdict
from simulator.cell import MemoryCell
from simulator.clock import Clock
from simulator.faults import Happening, Timeline
from simulator.physics import Physics
from simulator.profile import BoardProfile, load_profile
from simulator.scenario.agenda import Agenda
from simulator.scenario.files import Scenario
from simulator.scenario.measure import Profiled, measure_model, measure_rest
from simulator.scenario.node import Node
from simulator.scenario.policy import NodePolicy, Policy
from simulator.scenario.record import MAX_BINS, SAMPLE_S, BoardRecord, Decision, ModelRecord
from simulator.scenario.service import Record, Service
from simulator.scenario.workload import Workload

Progress = Callable[[float], None]  # is given scenario seconds


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a run: what is asked of it, what the node measured of it, and where its requests are recorded."""

    workload: Workload
    profiled: Profiled
    record: Record


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the board and its node. ``origin``: the start, in board seconds."""

    cell: MemoryCell
    board: BoardRecord
    node: Node
    origin: float


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
    rest_w = measure_rest(profile)
    taken, outcomes = list[Model](), []
    for workload in workloads:
        profiled = measure_model(profile, scenario.seed, workload)
        record = ModelRecord(workload.budget.latency_p99_ms, bin_s_of(scenario))
        model = Model(workload, profiled, record)
        verdicts, refused = _admit(profile, scenario, rest_w, taken, model)
        outcomes.append(ModelOutcome(workload, record, verdicts, refused))
        if not refused:
            taken.append(model)
    ran = simulate(profile, scenario, taken, NodePolicy(), clock, rest_w, progress=progress)
    return Outcome(
        scenario, ran.cell, bin_s_of(scenario), ran.board, tuple(outcomes), tuple(ran.node.decisions),
        time.perf_counter() - wall,
    )  # fmt: skip


def bin_s_of(scenario: Scenario) -> float:
    """The width of the time bins in which a scenario is recorded."""
    return float(max(SAMPLE_S, math.ceil(scenario.duration_s / MAX_BINS)))


def simulate(
    profile: BoardProfile,
    scenario: Scenario,
    models: Sequence[Model],
    policy: Policy,
    clock: Clock,
    rest_w: float | None,
    script: Sequence[tuple[float, Move]] = (),
    progress: Progress = lambda _: None,
) -> Run:
    """The board for the scenario's time, with the placement that ``policy`` decides and ``script`` (by seconds since
    the start) adds. The models that begin at 0 s are loaded before the start."""
    began = clock.now()
    origin = began + _loading_s(profile, len(models))
    cell = MemoryCell(Physics(profile, _timeline(profile, scenario, began, origin), scenario.seed), clock)
    agenda = Agenda()
    node = Node(cell, agenda, origin, policy, scenario.power_cap_w, rest_w)
    services = [Service(m.workload, m.record, m.profiled.measurements, m.profiled.failed) for m in models]
    for begins_s in sorted({service.workload.begins_s for service in services}):
        starting = [service for service in services if service.workload.begins_s == begins_s]
        at = origin + begins_s if begins_s else began
        agenda.add(at, functools.partial(node.deploy, starting))
    for service in services:
        if service.workload.ends_s < scenario.duration_s:
            agenda.add(origin + service.workload.ends_s, functools.partial(node.withdraw, service))
        _Requests(
            node, service, agenda, origin, service.workload.arrivals(scenario.seed, scenario.duration_s)
        )
    for at_s, move in script:
        agenda.add(max(began, origin + at_s), functools.partial(node.move, [move]))
    _work_off(agenda, clock, origin)
    cell.physics.advance(cell.state, origin)
    node.start_counting()
    board = BoardRecord(cell, origin, bin_s_of(scenario))
    for cap in scenario.caps:
        agenda.add(origin + cap.at_s, functools.partial(_change_cap, board, node, cap.watts))
    _Samples(board, node, agenda, origin, progress)
    _work_off(agenda, clock, origin + scenario.duration_s)
    board.sample(origin + scenario.duration_s, node.cap_w)
    return Run(cell, board, node, origin)


def _admit(
    profile: BoardProfile, scenario: Scenario, rest_w: float | None, taken: Sequence[Model], newcomer: Model
) -> tuple[tuple[Verdict, ...], str]:
    """The newcomer's verdicts, and why the node does not take it beside the models that it has taken; as ``deploy``
    does: what would miss its budget is refused."""
    devices = tuple(demand.DeviceState(d.id, d.kind, 1, d.memory_mb) for d in profile.devices)
    node = demand.Node(devices, scenario.power_cap_w, rest_w)
    demands = [
        demand.Demand(m.workload.name, m.workload.budget, m.profiled.measurements, m.profiled.failed)
        for m in (*taken, newcomer)
    ]
    placed = plan(demands, node).of(newcomer.workload.name)
    refused = "" if placed.candidate is not None and not placed.missed else placed.reason
    return placed.verdicts, refused


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
    """Every second: the board is sampled, the node looks."""

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
        self._node.tick(now)
        self._next()


def _loading_s(profile: BoardProfile, models: int) -> float:
    """Time enough for every model to be loaded on every device."""
    return models * sum(d.load_s + (d.overlay.load_s if d.overlay else 0.0) for d in profile.devices) + 0.1


def _timeline(profile: BoardProfile, scenario: Scenario, began: float, origin: float) -> Timeline:
    happenings = [Happening.of(fault, origin) for fault in scenario.faults]
    return Timeline(profile, [replace(h, start=began) if h.start == origin else h for h in happenings])
