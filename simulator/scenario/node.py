"""What a node does on the board of a scenario: serve, move models, notice lost devices.

The decisions are those of the node's own code (``plan``, ``DeviceHealth``); how it carries them out is modelled after
``deploy.replace``: make before break, and lost devices tried again.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.deploy.health import DeviceHealth
from agent.deploy.replace import PROBE_S
from agent.devices.cpu import CpuDevice
from agent.errors import DeviceError, DeviceLost, OverlaidError
from agent.placement import plan
from agent.serving.http.connections import MAX_CONNECTIONS
from agent.types import Candidate, Verdict
from simulator.board import SimDevice
from simulator.cell import MemoryCell, Moment
from simulator.fpga import failing, load_overlay
from simulator.physics import Interval
from simulator.scenario.agenda import Agenda
from simulator.scenario.record import Decision, ModelRecord
from simulator.scenario.workload import Workload
from simulator.speed import run_seconds
from simulator.work import Work

NO_WORKER = "no worker"
BUSY = "too many wait"


@dataclass(slots=True)
class Worker:
    """A loaded model. ``ends``: when the runs that wait or go on will end."""

    candidate: Candidate
    device: int
    work: Work
    run_s: float
    ends: deque[float] = field(default_factory=deque)


@dataclass(slots=True)
class Service:
    """A model in service. ``candidate``: where it should be; ``placed``: where it was loaded last; ``stale``: its
    worker has seen its device get lost; ``again``: weigh it after the move."""

    workload: Workload
    record: ModelRecord
    candidate: Candidate
    verdicts: Sequence[Verdict]
    reason: str
    placed: Candidate | None = None
    worker: Worker | None = None
    moving: bool = False
    again: str = ""
    stale: bool = False


class Node:
    """Times are board seconds; decisions are recorded in seconds since ``origin``."""

    def __init__(self, cell: MemoryCell, agenda: Agenda, origin: float, cap_w: float | None) -> None:
        self._cell, self._agenda, self._origin = cell, agenda, origin
        self._index = {device.id: i for i, device in enumerate(cell.profile.devices)}
        self._devices = {
            device.id: SimDevice(cell, device.id, CpuDevice()) for device in cell.profile.devices
        }
        self._fpgas = {i for i, device in enumerate(cell.profile.devices) if device.overlay is not None}
        self._health = DeviceHealth()
        self.services: list[Service] = []
        self.decisions: list[Decision] = []
        self.cap_w = cap_w

    def deploy(self, service: Service, now: float) -> None:
        """Load a model for the first time."""
        self.services.append(service)
        self._move(service, service.candidate, "start", now)

    def set_cap(self, cap_w: float | None, now: float) -> None:
        """The operator changes the node's cap."""
        trigger = f"cap {_watts(self.cap_w)} -> {_watts(cap_w)}"
        self.cap_w = cap_w
        self._weigh_all(trigger, now)

    # -- requests ------------------------------------------------------------------------------------------------

    def request(self, service: Service, now: float) -> None:
        """One request arrives; see ``simulator.board.SimSession.run``. Hot: millions a scenario."""
        record, worker = service.record, service.worker
        record.requests += 1
        if worker is None:
            record.failed(now - self._origin, NO_WORKER)
            return
        ends = worker.ends
        while ends and ends[0] <= now:
            ends.popleft()
        if len(ends) >= MAX_CONNECTIONS:
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
        else:
            interval = cell.physics.run(cell.state, device, worker.run_s, now)
            if interval.end < conditions.until:
                record.done(worker.candidate, now - self._origin, interval.end - now, interval.joules)
            else:
                self._agenda.add(
                    interval.end, functools.partial(self._finish, service, worker, now, interval)
                )
        ends.append(interval.end)

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

    # -- where models run ----------------------------------------------------------------------------------------

    def _weigh_all(self, trigger: str, now: float) -> None:
        for service in self.services:
            self._weigh(service, trigger, now)

    def _weigh(self, service: Service, trigger: str, now: float) -> None:
        if service.moving:
            service.again = trigger
            return
        old, budget = service.candidate, service.workload.budget
        choice = plan.replan(budget, service.verdicts, self.cap_w, old, self._health.lost)
        new = choice.candidate or old
        told = choice.reason != service.reason
        service.verdicts, service.reason = choice.verdicts, choice.reason
        stays = new == old and service.worker is not None and not service.stale
        if stays or new.device in self._health.lost:
            if told:
                self._decided(service, service.placed, trigger, now, now)
        else:
            self._move(service, new, trigger, now)

    def _move(self, service: Service, new: Candidate, trigger: str, now: float) -> None:
        """Load the model on its new candidate; what served it serves until then, unless it is restarted in place."""
        if service.worker is not None and service.worker.candidate == new:
            self._unload(service.worker, now)
            service.worker = None
        device = self._devices[new.device]
        work = service.workload.work[new.variant]
        try:
            device.check_lost()
            loaded = device.begin_load(work)
        except DeviceError as error:
            self._on_unopened(new.device, error, service, trigger, now)
            return
        service.moving = True
        arrived = functools.partial(self._arrive, service, new, trigger, now)
        self._agenda.add(loaded, arrived)

    def _arrive(self, service: Service, new: Candidate, trigger: str, decided: float, now: float) -> None:
        service.moving = False
        try:
            self._devices[new.device].check_lost(decided)
        except DeviceLost as error:
            self._on_unopened(new.device, error, service, trigger, now)
            return
        index = self._index[new.device]
        profile, work = self._cell.profile.devices[index], service.workload.work[new.variant]
        replaced = service.worker
        self._cell.hold(index)
        service.worker = Worker(new, index, work, run_seconds(profile, work, cpu=self._cell.profile.cpu))
        self._decided(service, new, trigger, decided, now)
        service.candidate = service.placed = new
        service.stale = False
        if replaced is not None:
            drained = replaced.ends[-1] if replaced.ends else now
            self._agenda.add(max(now, drained), functools.partial(self._unload, replaced))
        if service.again:
            trigger, service.again = service.again, ""
            self._weigh(service, trigger, now)

    def _unload(self, worker: Worker, now: float) -> None:
        del now
        self._cell.release(worker.device)

    def _decided(
        self, service: Service, new: Candidate | None, trigger: str, decided: float, now: float
    ) -> None:
        decided_s, time_s = max(0.0, decided - self._origin), max(0.0, now - self._origin)
        self.decisions.append(
            Decision(decided_s, time_s, service.workload.name, service.placed, new, trigger, service.reason)
        )

    # -- lost devices --------------------------------------------------------------------------------------------

    def _on_unopened(
        self, device: str, error: OverlaidError, service: Service, trigger: str, now: float
    ) -> None:
        service.again = ""
        if self._health.lose(device, error):
            self._on_lost(device, now)
        else:
            self._weigh(service, trigger, now)

    def _on_lost(self, device: str, now: float) -> None:
        for service in self.services:
            service.stale = service.stale or service.candidate.device == device
        self._agenda.add(now + PROBE_S, functools.partial(self._probe, device))
        self._weigh_all(f"{device} is lost", now)

    def _probe(self, device: str, now: float) -> None:
        """Try the lost device with a model that once was measured there."""
        works = [
            service.workload.work[verdict.candidate.variant]
            for service in self.services
            for verdict in service.verdicts
            if verdict.candidate.device == device and verdict.measurement is not None
        ]
        try:
            self._devices[device].check_lost()
            loaded = self._devices[device].begin_load(works[0])
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
        else:
            self._health.found(device)
            self._weigh_all(f"{device} is back", now)


def _watts(cap_w: float | None) -> str:
    return "none" if cap_w is None else f"{cap_w:g} W"
