"""How a scenario's node moves models: one after another, make before break, a fresh worker's speed checked first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from agent.devices.cpu import CpuDevice
from agent.errors import DeviceError, one_line
from agent.placement.adapting.look import Move
from agent.types import Candidate
from simulator.board import SimDevice
from simulator.cell import MemoryCell, Moment
from simulator.fpga import failing
from simulator.runs import reserve_run
from simulator.scenario.agenda import Agenda
from simulator.scenario.policy import Policy
from simulator.scenario.record import Decision
from simulator.scenario.service import Service, Worker
from simulator.speed import run_time

VERIFY_S = 0.1  # of runs on a fresh worker before it takes over,
VERIFY_RUNS = 50  # at most

OnUnopened = Callable[[str, DeviceError, float], None]


@dataclass(slots=True)
class _Going:
    """The move that is under way."""

    service: Service
    move: Move
    decided: float
    runs: int = 0
    run_s: float = 0.0


class Mover:
    """``on_unopened`` hears of a device that could not be opened. Times are board seconds; ``switch_j``: what loading
    and checking cost, overlays included."""

    def __init__(
        self, cell: MemoryCell, agenda: Agenda, origin: float, policy: Policy, on_unopened: OnUnopened
    ) -> None:
        self._cell, self._agenda, self._origin, self._policy = cell, agenda, origin, policy
        self._on_unopened = on_unopened
        self._index = {device.id: i for i, device in enumerate(cell.profile.devices)}
        self.devices = {device.id: SimDevice(cell, device.id, CpuDevice()) for device in cell.profile.devices}
        self._waiting: dict[str, tuple[Service, Move, float]] = {}
        self._going: _Going | None = None
        self.decisions: list[Decision] = []
        self.switch_j = 0.0

    def waits(self, service: Service) -> bool:
        """Whether a move of the model waits or is under way."""
        return service.name in self._waiting or service.moving is not None

    def ask(self, service: Service, move: Move, now: float) -> None:
        """Carry it out when its turn comes; it replaces what waited for the model."""
        self._waiting.pop(service.name, None)
        if self._going is not None and self._going.service is service:
            done = self._going.move.candidate == move.candidate
        else:
            there = service.worker.candidate if service.worker is not None else None
            done = there == move.candidate and not service.stale and (there is not None or bool(service.shed))
        if not done:
            self._waiting[service.name] = service, move, now
        self._next(now)

    def withdraw(self, service: Service, now: float) -> None:
        """The model is served no more."""
        service.gone = True
        self._waiting.pop(service.name, None)
        self._unload_all(service, now)

    def stays(self, service: Service, trigger: str, reason: str, now: float) -> None:
        """Note why the model is still where it is."""
        service.reason = reason
        self._decided(service, service.placed, Move(service.name, service.placed, trigger, reason), now, now)

    # -- one move --------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> None:
        while self._going is None and self._waiting:
            service, move, decided = self._waiting.pop(next(iter(self._waiting)))
            self._begin(service, move, decided, now)

    def _begin(self, service: Service, move: Move, decided: float, now: float) -> None:
        new = move.candidate
        if new is None:
            service.shed = move.reason or "shed"
            self._unload_all(service, now)
            self._decided(service, None, move, decided, now)
            service.placed = None
            return
        if service.worker is not None and service.worker.candidate == new:  # restarted in place
            self._unload_all(service, now)
        try:
            loaded = self._load(service, new)
        except DeviceError as error:
            self._unopened(service, new, error, now)
            return
        service.moving = new
        self._going = _Going(service, move, decided)
        self._agenda.add(loaded, functools.partial(self._arrive, self._going, now))

    def _load(self, service: Service, new: Candidate) -> float:
        """Returns when it is loaded."""
        device, profile = self.devices[new.device], self._cell.profile.device(new.device)
        index, overlays = self._index[new.device], self._cell.state.overlay
        device.check_lost()
        before = overlays[index]
        loaded = device.begin_load(service.workload.work[new.variant])
        self.switch_j += profile.load_j
        if profile.overlay is not None and overlays[index] != before:
            self.switch_j += profile.overlay.load_j
        return loaded

    def _arrive(self, going: _Going, began: float, now: float) -> None:
        service, new = going.service, going.move.candidate
        assert new is not None
        try:
            self.devices[new.device].check_lost(began)
        except DeviceError as error:
            self._give_up(going, error, now)
            return
        index = self._index[new.device]
        work = service.workload.work[new.variant]
        self._cell.hold(index)
        worker = Worker(new, index, work, run_time(self._cell.profile, index, work))
        if self._policy.probes and service.placed not in (None, new) and service.worker is not None:
            self._verify(going, worker, now, 0.0, now)
        else:
            self._flip(going, worker, now)

    def _verify(self, going: _Going, worker: Worker, began: float, run_s: float, now: float) -> None:
        """After a run of ``run_s``: the next one, or the policy's word on them all."""
        new, device = worker.candidate, worker.device
        if run_s:
            going.runs += 1
            going.run_s += run_s
        try:
            self.devices[new.device].check_lost(began)
            if failure := failing(Moment(self._cell.state, self._cell.physics, now), device):
                raise failure.error
        except DeviceError as error:
            self._cell.release(device)
            self._give_up(going, error, now)
            return
        if going.runs < VERIFY_RUNS and now - began < VERIFY_S:
            interval = reserve_run(self._cell.physics, self._cell.state, device, worker.run, now)
            self.switch_j += interval.joules
            step = functools.partial(self._verify, going, worker, began, interval.seconds)
            self._agenda.add(interval.end, step)
            return
        measurement = going.service.measurement(new)
        z = going.run_s / going.runs / (measurement.mean_ms / 1e3) if measurement is not None else 1.0
        if self._policy.verify(going.service.name, new, z, now):
            self._flip(going, worker, now)
        else:
            self._cell.release(device)
            self._end(going, now)

    def _flip(self, going: _Going, worker: Worker, now: float) -> None:
        service, replaced = going.service, going.service.worker
        if service.gone:
            self._cell.release(worker.device)
            self._end(going, now)
            return
        self._decided(service, worker.candidate, going.move, going.decided, now)
        service.worker, service.placed = worker, worker.candidate
        service.stale, service.shed, service.reason = False, "", going.move.reason
        if replaced is not None:
            self._drain(service, replaced, now)
        self._end(going, now)

    def _give_up(self, going: _Going, error: DeviceError, now: float) -> None:
        candidate = going.move.candidate
        assert candidate is not None
        self._end(going, now)
        self._unopened(going.service, candidate, error, now)

    def _unopened(self, service: Service, candidate: Candidate, error: DeviceError, now: float) -> None:
        self._policy.failed(service.name, candidate, one_line(error))
        self._on_unopened(candidate.device, error, now)

    def _end(self, going: _Going, now: float) -> None:
        going.service.moving = None
        self._going = None
        self._next(now)

    # -- workers ---------------------------------------------------------------------------------------------------

    def _unload_all(self, service: Service, now: float) -> None:
        if service.worker is not None:
            self._drain(service, service.worker, now)
            service.worker = None

    def _drain(self, service: Service, worker: Worker, now: float) -> None:
        """It is unloaded when the last of its runs has ended."""
        service.leaving.append(worker)
        ends = worker.pending[-1][0] if worker.pending else now
        self._agenda.add(max(now, ends), lambda _: self._cell.release(worker.device))

    def _decided(
        self, service: Service, new: Candidate | None, move: Move, decided: float, now: float
    ) -> None:
        decided_s, time_s = max(0.0, decided - self._origin), max(0.0, now - self._origin)
        self.decisions.append(
            Decision(decided_s, time_s, service.name, service.placed, new, move.trigger, move.reason)
        )
