"""Models in service move when the power cap changes, and when a device is lost or back.

What was measured at their deployment decides (``plan.replan``); nothing is measured again. Make before break: a checked
worker on the new candidate takes the route over, then the old one ends.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from agent.deploy import phases, workers
from agent.deploy.health import DeviceHealth
from agent.deploy.resources import Resources
from agent.deploy.service import Service, reweighed
from agent.errors import DeployError, OverlaidError, StoreError, one_line
from agent.serving.unwell import UNWELL
from agent.types import Candidate, Placement

log = logging.getLogger("deploy")
PROBE_S = 10.0
RETRY_S = 20.0  # less than the period in which the manager asks
MOVES = 2  # at once: each starts a process that loads a runtime


class Replacer:
    """``services`` is shared with the manager: models by name; ``models`` names them and those being deployed.
    ``turns``: one lock a model, held while its service changes. ``measuring`` is held while a device is probed.
    ``on_change`` hears of everything that is shown, ``on_idle`` of the end of the last move."""

    def __init__(
        self,
        res: Resources,
        services: MutableMapping[str, Service],
        models: Callable[[], Iterable[str]],
        turns: Mapping[str, asyncio.Lock],
        measuring: asyncio.Lock,
        power_cap_w: Callable[[], float | None],
        on_change: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._res, self._services, self._models = res, services, models
        self._turns, self._measuring = turns, measuring
        self._power_cap_w, self._on_change, self._on_idle = power_cap_w, on_change, on_idle
        self._health = DeviceHealth()
        self._moves = asyncio.Semaphore(MOVES)
        self._waiting: set[str] = set()  # models that will be weighed when it is their turn
        self._stale: set[str] = set()  # models whose worker has seen its device get lost
        self._undone: dict[str, float] = {}  # models that could not be moved: monotonic s
        self._weighed_cap_w: float | None = None
        self._weighing: set[asyncio.Task[None]] = set()
        self._probing: asyncio.Task[None] | None = None
        self._probes = itertools.count()
        self._resumed = False

    # -- what happens --------------------------------------------------------------------------------------------

    @property
    def lost(self) -> Mapping[str, str]:
        """Lost devices: why."""
        return self._health.lost

    @property
    def busy(self) -> bool:
        """True while a model is weighed or moved."""
        return bool(self._weighing)

    def resume(self) -> None:
        """The models are restored: weigh them all, since the cap may have changed meanwhile."""
        self._resumed = True
        self._weighed_cap_w = self._power_cap_w()
        self.weigh(self._models())
        self._probe_soon()

    def keep_up(self) -> None:
        """Weigh all models when the cap has changed, else those whose last move failed a while ago."""
        cap_w, now = self._power_cap_w(), time.monotonic()
        if cap_w != self._weighed_cap_w:
            self._weighed_cap_w = cap_w
            self.weigh(self._models())
        else:
            self.weigh([name for name, failed in self._undone.items() if now - failed >= RETRY_S])

    def placed(self, model: str) -> None:
        """A deployment of the model succeeded: its worker is fresh."""
        self._stale.discard(model)
        self._undone.pop(model, None)

    def unwell(self, model: str, device: str, error: OverlaidError) -> None:
        """A worker of the model failed for its device's sake. One that waits for its replacement tells nothing new."""
        if device in self.lost or model in self._stale:
            return
        log.warning("%s: %s on %s: %s", model, error.name, device, error)
        if self._health.failed(device, error, time.monotonic()):
            self._on_lost(device)
        else:
            self._res.telemetry.event("device-unwell", f"{device}: {error.name}: {one_line(error)}", model)

    def lose(self, device: str, error: OverlaidError) -> None:
        """The device could not even be opened."""
        if self._health.lose(device, error):
            self._on_lost(device)

    def _on_lost(self, device: str) -> None:
        text = f"device {device} is lost: {self.lost[device]}"
        log.error("%s", text)
        self._res.telemetry.event("device-lost", text)
        on_it = [name for name, s in self._services.items() if s.placement.candidate.device == device]
        self._stale.update(on_it)
        self.weigh([*on_it, *self._models()])
        self._probe_soon()
        self._on_change()

    async def stop(self) -> None:
        """Cancel everything that is under way."""
        tasks = [*self._weighing, *([self._probing] if self._probing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- moves ---------------------------------------------------------------------------------------------------

    def weigh(self, models: Iterable[str]) -> None:
        """See soon, each in its turn, whether these models are where they should be."""
        for name in list(models):
            if self._resumed and name not in self._waiting:
                self._waiting.add(name)
                self._weighing.add(task := self._task(self._weigh(name)))
                task.add_done_callback(self._weighed)

    def _weighed(self, task: asyncio.Task[None]) -> None:
        self._weighing.discard(task)
        self._on_change()
        if not self._weighing:
            self._on_idle()

    async def _weigh(self, name: str) -> None:
        try:
            async with self._turns[name], self._moves:
                self._waiting.discard(name)  # what happens from here on is weighed once more
                self._undone.pop(name, None)
                service = self._services.get(name)
                if service is not None and service.serves:
                    await self._settle(name, service.placement)
        finally:
            self._waiting.discard(name)

    async def _settle(self, name: str, old: Placement) -> None:
        new = reweighed(old, self._power_cap_w(), self.lost, time.time())
        try:
            if new.candidate.device not in self.lost:
                await self._bring(name, old, new)
        except UNWELL as error:
            self.lose(new.candidate.device, error)  # which weighs this model again
        except OverlaidError as error:
            self._failed(name, old, new.candidate, error)
        except Exception as error:  # a bug must not end what keeps models in service
            log.exception("moving %s", name)
            self._failed(name, old, new.candidate, DeployError(f"internal error: {error!r}"))
        else:
            self._keep(name, new)

    async def _bring(self, name: str, old: Placement, new: Placement) -> None:
        """A worker that works serves on the new candidate; the old one serves until then."""
        pool = self._res.pool
        if new.candidate == old.candidate and pool.status(name) is not None:
            if name in self._stale:
                await pool.restart(name)
                self._stale.discard(name)
            return
        package = phases.installed_package(self._res, new.digest)
        worker = await workers.start_placed(self._res, package, new)
        try:
            replaced = await pool.route(name, worker)
        except OverlaidError:
            await pool.stop(worker)
            raise
        self._stale.discard(name)
        self._keep(name, new)
        if new.candidate != old.candidate:
            moved = f"{old.candidate} -> {new.candidate}: {new.reason}"
            log.info("%s: %s", name, moved)
            self._res.telemetry.event("replaced", moved, name)
        if replaced is not None:
            await pool.stop(replaced)

    def _keep(self, name: str, placement: Placement) -> None:
        service = self._services[name]
        if service.placement == placement:
            return
        self._services[name] = replace(service, placement=placement)
        self._res.telemetry.placement(placement)
        try:
            self._res.journal.save_placement(service.origin, placement)
        except StoreError as error:  # the next start begins with the one before and weighs again
            log.error("%s: %s", name, error)
        self._on_change()

    def _failed(self, name: str, old: Placement, wanted: Candidate, error: OverlaidError) -> None:
        self._undone[name] = time.monotonic()
        why = f"stays on {old.candidate}: {wanted} could not take over: {error.name}: {one_line(error)}"
        if old.reason != why:
            log.warning("%s %s", name, why)
            self._res.telemetry.event("replace-failed", why, name)
            self._keep(name, replace(old, reason=why))

    # -- lost devices --------------------------------------------------------------------------------------------

    def _probe_soon(self) -> None:
        if self.lost and self._resumed and self._probing is None:
            self._probing = self._task(self._probe())

    async def _probe(self) -> None:
        while self.lost:
            await asyncio.sleep(PROBE_S)
            for device in list(self.lost):
                there = self._usable_there(device)
                if there and not await self._answers(device, there):
                    continue
                self._health.found(device)
                text = (
                    f"device {device} is back" if there else f"no model here can use device {device} any more"
                )
                log.info("%s", text)
                self._res.telemetry.event("device-back", text)
                self.weigh(self._models())
                self._on_change()
        self._probing = None

    def _usable_there(self, device: str) -> list[tuple[str, Candidate]]:
        """Digests of models in service with their candidates on the device that once were measured."""
        return [
            (service.placement.digest, verdict.candidate)
            for _, service in sorted(self._services.items())
            for verdict in service.placement.verdicts
            if verdict.candidate.device == device and verdict.measurement is not None
        ]

    async def _answers(self, device: str, there: Sequence[tuple[str, Candidate]]) -> bool:
        """True when a worker starts there and its golden vectors agree; another candidate each time."""
        digest, candidate = there[next(self._probes) % len(there)]
        try:
            async with self._measuring:
                package = phases.installed_package(self._res, digest)
                await self._res.pool.stop(await workers.start_checked(self._res, package, candidate))
        except OverlaidError as error:
            log.debug("device %s is still lost: %s: %s", device, error.name, one_line(error))
            return False
        except Exception:  # a bug must not end the probing
            log.exception("probing device %s", device)
            return False
        return True

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)
