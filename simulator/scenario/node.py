"""What a node does on the board of a scenario: serve, notice lost devices, look at itself once a second and let its
policy decide.

How it carries decisions out is modelled after ``deploy``: make before break, and lost devices tried again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.deploy.health import PROBE_S, DeviceHealth
from agent.errors import DeviceError, DeviceLost, OverlaidError
from agent.placement import demand
from agent.placement.adapting.look import Look, Move
from agent.serving.http.connections import MAX_CONNECTIONS
from simulator.cell import MemoryCell, Moment
from simulator.fpga import failing, load_overlay
from simulator.physics import Interval
from simulator.runs import reserve_run
from simulator.scenario.agenda import Agenda
from simulator.scenario.moves import Mover
from simulator.scenario.policy import Policy
from simulator.scenario.record import Decision
from simulator.scenario.senses import Senses
from simulator.scenario.service import Service, Worker

NO_WORKER = "no worker"
SHED = "shed"
BUSY = "too many wait"


@dataclass(slots=True)
class Thought:
    """What the policy's looks took: their number, seconds in all and the longest."""

    looks: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.looks += 1
        self.seconds += seconds
        self.longest_s = max(self.longest_s, seconds)


class Node:
    """Times are board seconds; decisions are recorded in seconds since ``origin``. ``rest_w``: see ``demand.Node``."""

    def __init__(
        self,
        cell: MemoryCell,
        agenda: Agenda,
        origin: float,
        policy: Policy,
        cap_w: float | None,
        rest_w: float | None,
        timer: Callable[[], float] = time.process_time,
    ) -> None:
        self._cell, self._agenda, self._origin = cell, agenda, origin
        self._policy, self._rest_w, self._timer = policy, rest_w, timer
        self._index = {device.id: i for i, device in enumerate(cell.profile.devices)}
        self._fpgas = {i for i, device in enumerate(cell.profile.devices) if device.overlay is not None}
        self._health = DeviceHealth()
        self._senses = Senses(cell)
        self._mover = Mover(cell, agenda, origin, policy, self._on_unopened)
        self._devices = self._mover.devices
        self.services: list[Service] = []
        self.cap_w = cap_w
        self.thought = Thought()

    @property
    def decisions(self) -> Sequence[Decision]:
        return self._mover.decisions

    @property
    def switch_j(self) -> float:
        """Joules that loading models and overlays took, and checking them."""
        return self._mover.switch_j

    # -- what happens to it --------------------------------------------------------------------------------------

    def deploy(self, services: Sequence[Service], now: float) -> None:
        """Models come into service, all at once."""
        self.services += services
        self._look("start", now)

    def withdraw(self, service: Service, now: float) -> None:
        """A model is served no more."""
        self.services.remove(service)
        self._mover.withdraw(service, now)
        self._look(f"{service.name} is withdrawn", now)

    def set_cap(self, cap_w: float | None, now: float) -> None:
        """The operator changes the node's cap."""
        trigger = f"cap {_watts(self.cap_w)} -> {_watts(cap_w)}"
        self.cap_w = cap_w
        self._look(trigger, now)

    def move(self, moves: Sequence[Move], now: float) -> None:
        """Carry these out, whoever decided them; those of models that are not there are left out."""
        services = {service.name: service for service in self.services}
        for move in moves:
            if move.model in services:
                self._mover.ask(services[move.model], move, now)

    def start_counting(self) -> None:
        """What was before does not count: the cost of the first loading, the time of the first looks."""
        self._mover.switch_j = 0.0
        self.thought = Thought()

    def tick(self, now: float) -> None:
        """A second has passed."""
        self._look("", now)

    # -- requests ------------------------------------------------------------------------------------------------

    def request(self, service: Service, now: float) -> None:
        """One request arrives; see ``simulator.board.SimSession.run``. Hot: millions a scenario."""
        record, worker = service.record, service.worker
        record.requests += 1
        if worker is None:
            record.failed(now - self._origin, SHED if service.shed else NO_WORKER)
            return
        worker.requests += 1
        if worker.settle(now) >= MAX_CONNECTIONS:
            record.failed(now - self._origin, BUSY)
            return
        cell, device = self._cell, worker.device
        conditions = cell.physics.timeline.at(now)
        try:
            if conditions.lost[device]:
                self._devices[worker.candidate.device].check_lost()
            if device in self._fpgas:
                load_overlay(Moment(cell.state, cell.physics, now), device, worker.work)
        except DeviceError as error:
            self._fail(service, worker, now, error, now)
            return
        if device in self._fpgas and (failure := failing(Moment(cell.state, cell.physics, now), device)):
            interval = cell.physics.load(cell.state, device, failure.after_s, 0.0, now)
            self._agenda.add(interval.end, functools.partial(self._fail, service, worker, now, failure.error))
            worker.pending.append((interval.end, -1.0, False))
            return
        free = worker.pending[-1][0] if worker.pending else now
        interval = reserve_run(cell.physics, cell.state, device, worker.run, now, free)
        latency_s = interval.end - now
        if interval.end < conditions.until:
            record.done(worker.candidate, now - self._origin, latency_s, interval.joules)
            worker.pending.append((interval.end, interval.seconds, latency_s > service.budget_s))
        else:
            self._agenda.add(interval.end, functools.partial(self._finish, service, worker, now, interval))
            worker.pending.append((interval.end, -1.0, False))

    def _finish(
        self, service: Service, worker: Worker, arrived: float, interval: Interval, now: float
    ) -> None:
        try:
            self._devices[worker.candidate.device].check_lost(arrived)
        except DeviceLost as error:
            self._fail(service, worker, arrived, error, now)
        else:
            latency_s = interval.end - arrived
            service.record.done(worker.candidate, arrived - self._origin, latency_s, interval.joules)
            worker.runs += 1
            worker.busy_s += interval.seconds
            worker.late += latency_s > service.budget_s

    def _fail(
        self, service: Service, worker: Worker, arrived: float, error: OverlaidError, now: float
    ) -> None:
        """The client gets a 503; the worker's word on its device counts until it waits for its replacement."""
        service.record.failed(arrived - self._origin, error.name)
        device = worker.candidate.device
        if device in self._health.lost or service.stale or worker is not service.worker:
            return
        if self._health.failed(device, error, now):
            self._on_lost(device, now)

    # -- what it decides -----------------------------------------------------------------------------------------

    def _look(self, trigger: str, now: float) -> None:
        """Empty ``trigger``: because a second has passed."""
        seen = () if trigger else tuple(each for service in self.services for each in service.seen(now))
        look = Look(now, seen, self._senses.watts(now))
        demands = [service.demand() for service in self.services]
        node = self._as_seen()
        began = self._timer()
        moves = self._policy.look(look, demands, node)
        self.thought.add(self._timer() - began)
        first = (
            [Move(m.model, m.candidate, trigger, m.reason) for m in moves] if trigger == "start" else moves
        )
        self.move(first, now)
        moved = {move.model for move in moves}
        for service in self.services if trigger else ():
            reason = self._policy.reasons.get(service.name, "")
            if service.name in moved or self._mover.waits(service):
                continue
            if reason and reason != service.reason and service.placed is not None:
                self._mover.stays(service, trigger, reason, now)

    def _as_seen(self) -> demand.Node:
        devices = tuple(
            demand.DeviceState(d.id, d.kind, 1, d.memory_mb, 1.0, self._health.lost.get(d.id, ""))
            for d in self._cell.profile.devices
        )
        return demand.Node(devices, self.cap_w, self._rest_w)

    # -- lost devices --------------------------------------------------------------------------------------------

    def _on_unopened(self, device: str, error: OverlaidError, now: float) -> None:
        if self._health.lose(device, error):
            self._on_lost(device, now)

    def _on_lost(self, device: str, now: float) -> None:
        for service in self.services:
            if service.worker is not None and service.worker.candidate.device == device:
                service.stale = True
        self._agenda.add(now + PROBE_S, functools.partial(self._probe, device))
        # Not at once: what found it out is in the middle of something.
        self._agenda.add(now, functools.partial(self._look, f"{device} is lost"))

    def _probe(self, device: str, now: float) -> None:
        """Try the lost device with a model that once was measured there."""
        works = [
            service.workload.work[measurement.candidate.variant]
            for service in self.services
            for measurement in service.measurements
            if measurement.candidate.device == device
        ]
        try:
            self._devices[device].check_lost()
            loaded = self._devices[device].begin_load(works[0]) if works else now
        except DeviceError:
            self._agenda.add(now + PROBE_S, functools.partial(self._probe, device))
        else:
            self._agenda.add(loaded, functools.partial(self._probed, device, now))

    def _probed(self, device: str, began: float, now: float) -> None:
        try:
            self._devices[device].check_lost(began)
            moment = Moment(self._cell.state, self._cell.physics, now)
            if failure := failing(moment, self._index[device]):
                raise failure.error
        except DeviceError:
            self._agenda.add(now + PROBE_S, functools.partial(self._probe, device))
            return
        self._health.found(device)
        trigger = f"{device} is back"
        self._look(trigger, now)
        for service in self.services:  # those that nobody moved are restarted where they are
            worker = service.worker
            if not service.stale or worker is None or self._mover.waits(service):
                continue
            if worker.candidate.device == device:
                self.move([Move(service.name, worker.candidate, trigger, service.reason)], now)


def _watts(cap_w: float | None) -> str:
    return "none" if cap_w is None else f"{cap_w:g} W"
