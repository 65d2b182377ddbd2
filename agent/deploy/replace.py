"""Models in service move: make before break, one after another.

A fresh worker on the new candidate loads, proves its golden vectors and its speed, takes the route over, and the old
one ends. Whatever fails leaves what served before. What is decided is on the disk before it is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from agent.deploy import phases, workers
from agent.deploy.demands import as_moved, overlay_on, replaced
from agent.deploy.lost import LostDevices
from agent.deploy.resources import Resources
from agent.deploy.service import Service
from agent.errors import DeployError, OverlaidError, StoreError, TooSlow, one_line
from agent.logs.fields import about
from agent.placement.adapting.adapt import Move
from agent.placement.demand import Placed
from agent.placement.stats import mean
from agent.serving.processes.process import Worker
from agent.serving.unwell import UNWELL
from agent.types import Candidate, OverlayRef, Placement

log = logging.getLogger("deploy")
AT_ONCE = 2  # models of a lost device that are moved at once: each starts a process that loads a runtime
VERIFY_S, VERIFY_RUNS = 0.1, 50  # of a fresh worker, before it serves
NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done with a model. ``move`` None: its worker is renewed where it is."""

    model: str
    move: Move | None = None
    placed: Placed | None = None


class Replacer:
    """``services`` is shared with the manager: models by name. ``turns``: one lock a model, held while its service
    changes. ``elsewhere(model, device)``: where a model goes best while a device is of no use.

    ``verify(model, candidate, z)``: whether a fresh worker whose runs take ``z`` times the profiled time may take over;
    ``failed(model, candidate, why)`` hears of every other failure, ``dropped(model)`` of a model that is not moved
    because it is being deployed or removed. ``on_change`` hears of everything that is shown, ``on_idle`` of the end of
    the last move.
    """

    def __init__(
        self,
        res: Resources,
        services: MutableMapping[str, Service],
        turns: Mapping[str, asyncio.Lock],
        lost: LostDevices,
        elsewhere: Callable[[str, str], Placed | None],
        verify: Callable[[str, Candidate, float], bool],
        failed: Callable[[str, Candidate, str], None],
        dropped: Callable[[str], None],
        on_change: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._res, self._services, self._turns, self._lost = res, services, turns, lost
        self._elsewhere, self._verify, self._tell_failed, self._dropped = elsewhere, verify, failed, dropped
        self._on_change, self._on_idle = on_change, on_idle
        self._waiting: dict[str, Task] = {}
        self.stuck: set[str] = set()  # models whose last move failed
        self._work: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """True while a model is moved, or waits for it."""
        return self._work is not None

    def ask(self, tasks: Iterable[Task]) -> None:
        """Do this soon, in this order; a model's newer task takes the place of one that waits."""
        for task in tasks:
            if task.move is None and task.model in self._waiting:
                continue
            self._waiting.pop(task.model, None)
            self._waiting[task.model] = task
        if self._waiting and self._work is None:
            self._work = self._task(self._work_off())

    def forget(self, model: str) -> None:
        """What waits for the model is not to be done any more."""
        self._waiting.pop(model, None)
        self.stuck.discard(model)

    async def stop(self) -> None:
        """Cancel everything that is under way."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def clear(self, device: str, overlay: OverlayRef | None, model: str) -> None:
        """Make way on an FPGA for ``model`` with another overlay: who is there goes elsewhere until it may come back.

        ``model``'s turn is held. DeployError when somebody else is there who is not about to leave or to change.
        """
        if overlay is None:
            return
        there = [
            name
            for name, service in self._services.items()
            if service.runs and overlay_on(service.placement, device) not in (None, overlay)
        ]
        for name in sorted(there, key=lambda name: name != model):
            if name == model:
                await self.bridge(name, device, overlay)
            elif not self._changes(name) or self._turns[name].locked():
                holds = overlay_on(self._services[name].placement, device)
                raise DeployError(f"{device} still holds {holds} for {name}")
            else:
                async with self._turns[name]:
                    await self.bridge(name, device, overlay)

    async def bridge(self, name: str, device: str, overlay: OverlayRef) -> None:
        """The model, whose turn is held, serves elsewhere while its FPGA takes another overlay; where nothing else can
        run it, its requests wait for reloads until it is its turn."""
        old, placed = self._services[name].placement, self._elsewhere(name, device)
        if placed is None or placed.candidate is None:
            topic = {"model": name, "device": device}
            log.info("%s: nothing else can run it while %s takes %s", name, device, overlay, extra=topic)
            return
        text = f"bridged by {placed.candidate} while {device} takes {overlay}"
        new = replace(replaced(old, placed, time.time()), reason=text)
        try:
            worker = await self._started(new)
        except UNWELL as error:  # which says nothing of the device that another overlay is wanted on
            self._lost.lose(new.candidate.device, error)
            raise DeployError(f"{name} could not be bridged: {error.name}: {one_line(error)}") from error
        self._persist(name, new)
        try:
            before = await self._res.pool.route(name, worker)
        except OverlaidError:
            self._persist(name, old)
            await self._res.pool.stop(worker)
            raise
        self._moved(name, old, new, "overlay")
        if before is not None:
            await self._res.pool.stop(before)

    def keep(self, name: str, placement: Placement) -> None:
        """The model's placement from now on; on the disk first."""
        service = self._services[name]
        if service.placement == placement:
            return
        self._persist(name, placement)
        self._services[name] = replace(service, placement=placement)
        self._res.telemetry.placement(placement)
        self._on_change()

    # -- one after another ---------------------------------------------------------------------------------------

    async def _work_off(self) -> None:
        try:
            while self._waiting:
                done = await asyncio.gather(*map(self._do, self._next()), return_exceptions=True)
                for error in done:
                    if isinstance(error, Exception):  # a bug must not end what moves models
                        log.error("a move failed", exc_info=error)
                self._on_change()
        finally:
            self._work = None
        self._on_idle()

    def _next(self) -> list[Task]:
        """The first that waits; several at once when they leave a lost device, which nobody needs to wait for."""
        tasks: list[Task] = []
        for task in self._waiting.values():
            if tasks and not (self._flees(task) and self._flees(tasks[0])):
                break
            tasks.append(task)
            if len(tasks) == AT_ONCE:
                break
        for task in tasks:
            del self._waiting[task.model]
        return tasks

    def _flees(self, task: Task) -> bool:
        service, move = self._services.get(task.model), task.move
        if service is None or move is None or move.candidate is None:
            return False
        to = next((d.kind for d in self._res.board.devices if d.id == move.candidate.device), "")
        return service.placement.candidate.device in self._lost.why and to != "fpga"

    def _changes(self, model: str) -> bool:
        task = self._waiting.get(model)
        return task is not None and task.move is not None

    async def _do(self, task: Task) -> None:
        with about(
            model=task.model
        ):  # the deployment that made this necessary may be another model's, and long over
            await self._do_now(task)

    async def _do_now(self, task: Task) -> None:
        """A model that is being deployed or removed is left alone."""
        name = task.model
        if self._turns[name].locked() or name not in self._services:
            self._dropped(name)
            return
        async with self._turns[name]:
            service = self._services[name]
            if not service.serves:
                return
            old = new = service.placement
            if task.move is not None and task.placed is not None:
                new = replaced(old, as_moved(task.placed, task.move), time.time())
            try:
                if task.move is None or (new.candidate, new.shed) == (old.candidate, old.shed):
                    await self._renew(name, new)
                elif new.shed:
                    await self._shed(name, old, new, task.move.trigger)
                else:
                    await self._move(name, old, new, task.move.trigger)
            except UNWELL as error:
                self._lost.lose(new.candidate.device, error)  # which is weighed at once
            except TooSlow as error:
                self._stays(name, old, new.candidate, error)
            except OverlaidError as error:
                self._tell_failed(name, new.candidate, f"{error.name}: {one_line(error)}")
                self._stays(name, old, new.candidate, error)
            except Exception as error:  # a bug must not end what keeps models in service
                log.exception("moving %s", name)
                self._tell_failed(name, new.candidate, f"internal error: {error!r}")
                self._stays(name, old, new.candidate, DeployError(f"internal error: {error!r}"))

    async def _move(self, name: str, old: Placement, new: Placement, trigger: str) -> None:
        measured = new.measurement
        await self.clear(new.candidate.device, measured.overlay if measured else None, name)
        old = self._services[name].placement  # it may have been bridged
        worker = await self._started(new)
        try:
            if (
                not old.shed and old.candidate.device not in self._lost.why
            ):  # else slow is better than nothing
                await self._prove(worker, new)
            self._persist(name, new)
            try:
                before = await self._res.pool.route(name, worker)
            except OverlaidError:
                self._persist(name, old)
                raise
        except BaseException:
            await self._res.pool.stop(worker)
            raise
        self._moved(name, old, new, trigger)
        if before is not None:
            await self._res.pool.stop(before)

    async def _shed(self, name: str, old: Placement, new: Placement, trigger: str) -> None:
        spec = workers.worker_spec(self._res, phases.installed_package(self._res, old.digest), old.candidate)
        self._persist(name, new)
        try:
            await self._res.pool.hold(spec, new.reason)
        except OverlaidError:
            self._persist(name, old)
            raise
        self._moved(name, old, new, trigger)

    async def _renew(self, name: str, placement: Placement) -> None:
        """A worker that works serves where it should: it may have none, or one whose device was lost meanwhile."""
        pool, status = self._res.pool, self._res.pool.status(name)
        if status is None or (status.held and not placement.shed):
            worker = await self._started(placement)
            try:
                await pool.route(name, worker)
            except OverlaidError:
                await pool.stop(worker)
                raise
        elif name in self._lost.stale and not placement.shed:
            await pool.restart(name)
        self._lost.stale.discard(name)
        self.keep(name, placement)

    async def _started(self, placement: Placement) -> Worker:
        package = phases.installed_package(self._res, placement.digest)
        return await workers.start_placed(self._res, package, placement)

    async def _prove(self, worker: Worker, new: Placement) -> None:
        """TooSlow when the worker takes much longer than what was measured once."""
        measured = new.measurement
        if measured is None or not measured.mean_ms > 0:
            return
        z = mean(await worker.profile(VERIFY_S, VERIFY_RUNS)) * 1e3 / measured.mean_ms
        if not self._verify(new.model, new.candidate, z):
            raise TooSlow(f"its runs take {z:.3g} x the profiled time now")

    # -- what is kept and told -----------------------------------------------------------------------------------

    def _moved(self, name: str, old: Placement, new: Placement, trigger: str) -> None:
        self._lost.stale.discard(name)
        self.stuck.discard(name)
        here, there = (NOWHERE if each.shed else str(each.candidate) for each in (old, new))
        why = new.reason if new.reason.startswith(trigger) else f"{trigger}: {new.reason}"
        text = f"{here} -> {there}: {why}"
        log.info("%s: %s", name, text, extra={"model": name, "device": new.candidate.device})
        self._res.telemetry.event("replaced", text, name)
        self._services[name] = replace(self._services[name], placement=new)
        self._res.telemetry.placement(new)
        self._on_change()

    def _stays(self, name: str, old: Placement, wanted: Candidate, error: OverlaidError) -> None:
        self.stuck.add(name)
        now = self._services[name].placement  # a bridge, maybe
        here = NOWHERE if now.shed else str(now.candidate)
        why = f"stays on {here}: {wanted} could not take over: {error.name}: {one_line(error)}"
        if old.reason != why:
            log.warning("%s %s", name, why, extra={"model": name, "device": wanted.device})
            self._res.telemetry.event("replace-failed", why, name)
            self.keep(name, replace(now, reason=why))

    def _persist(self, name: str, placement: Placement) -> None:
        try:
            self._res.journal.save_placement(self._services[name].origin, placement)
        except StoreError as error:  # the next start begins with the one before and weighs again
            log.error("%s: %s", name, error, extra={"model": name})

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)
