"""The deployments under way: each model's one after another, different models beside each other.

Measuring is exclusive, because two candidates that are measured at once would spoil each other's figures; a download
that waits for a silent server holds nobody else up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from functools import partial

from agent.deploy import placing
from agent.deploy.adaptation import Adaptation
from agent.deploy.attempt import Attempt
from agent.deploy.journal import Deployment
from agent.deploy.ledger import Ledger, heals
from agent.deploy.reconcile import Wanted
from agent.deploy.removal import Removals
from agent.deploy.resources import BlockSource, FolderSource, Resources
from agent.deploy.service import Service
from agent.errors import DeployError, OverlaidError, StoreError
from agent.logs.fields import about
from agent.package.verify import VerifiedPackage
from agent.serving.processes.process import Worker
from agent.types import Placement

log = logging.getLogger("deploy")
MAX_ATTEMPTS = 3  # a deployment that the daemon never survives is the reboot loop's cause


class Deployments:
    """``services`` is shared with the manager: models by name. ``turns``: one lock a model, held while its service
    changes; who wants it and ``measuring`` takes ``measuring`` first. ``wire`` is the source of blocks of fleet
    deployments, None without a broker. ``wanted``: what the fleet wants, by model. ``overlay_arrived`` hears of every
    overlay that was installed, ``on_end`` of every deployment that is over."""

    def __init__(
        self,
        res: Resources,
        services: MutableMapping[str, Service],
        turns: Mapping[str, asyncio.Lock],
        measuring: asyncio.Lock,
        adaptation: Adaptation,
        ledger: Ledger,
        wire: BlockSource | None,
        power_cap_w: Callable[[], float | None],
        wanted: Callable[[], Mapping[str, Wanted]],
        overlay_arrived: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._res, self._services, self._turns, self._measuring = res, services, turns, measuring
        self._adaptation, self._ledger, self._wire = adaptation, ledger, wire
        self._power_cap_w, self._overlay_arrived, self._on_end = power_cap_w, overlay_arrived, on_end
        self._wanted = wanted
        self._open: dict[int, tuple[str, asyncio.Task[None]]] = {}  # by id: model, task
        self._stop_with: dict[int, DeployError] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self.removals = Removals(res, services, turns, self._digests, self._awaited, on_end)

    @property
    def models(self) -> set[str]:
        """That are being deployed."""
        return {name for name, _ in self._open.values()}

    def start(self, deployment: Deployment) -> None:
        """Begin, or go on after a restart, with what the journal has."""
        self._ledger.opened(deployment)
        task = asyncio.get_running_loop().create_task(self._work(deployment))
        self._open[deployment.id] = (deployment.model.name, task)
        task.add_done_callback(lambda _: self._close(deployment))

    def stop(self, model: str, error: DeployError) -> bool:
        """End the model's open deployments with this error; False when there is none."""
        found = [
            (number, task) for number, (name, task) in self._open.items() if name == model and not task.done()
        ]
        for number, task in found:
            self._stop_with.setdefault(number, error)
            task.cancel()
        return bool(found)

    async def end(self) -> None:
        """The daemon stops: the journal keeps what is open, the next start resumes it."""
        tasks = [*(task for _, task in self._open.values()), *self.removals.tasks.values(), *self._chores]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _close(self, deployment: Deployment) -> None:
        """The deployment's task is over; one that was stopped before its first step has not ended by itself."""
        error = self._stop_with.get(deployment.id)
        if error is not None:
            self._finish(deployment, error)
        del self._open[deployment.id]
        self._on_end()

    async def _work(self, deployment: Deployment) -> None:
        with about(model=deployment.model.name, deployment=deployment.id):
            await self._work_on(deployment)

    async def _work_on(self, deployment: Deployment) -> None:
        try:
            await self._attempt(deployment)
        except asyncio.CancelledError:
            error = self._stop_with.get(deployment.id)
            if error is None:
                with contextlib.suppress(StoreError):
                    self._res.journal.forgive(deployment)
                raise  # the daemon stops
            self._finish(deployment, error)
        except OverlaidError as error:
            self._finish(deployment, error)
        except Exception as error:  # a bug must end this deployment, not the daemon
            log.exception("deployment of %s", deployment.model.name)
            self._finish(deployment, DeployError(f"internal error: {type(error).__name__}: {error}"))

    async def _attempt(self, deployment: Deployment) -> None:
        name = deployment.model.name
        if self._res.journal.begin(deployment) > MAX_ATTEMPTS:
            raise DeployError(
                f"the agent was stopped {MAX_ATTEMPTS} times in this deployment; deploy again to retry"
            )
        attempt = Attempt(
            self._res,
            deployment,
            self._source(deployment),
            self._adaptation,
            lambda: self.removals.make_room(name),
            partial(self._ledger.advance, deployment),
        )
        package = await attempt.deliver()  # which may take long: what serves may move meanwhile
        async with contextlib.AsyncExitStack() as held:
            async with self._measuring:
                placement, worker = await self._placed(attempt, package, held)
            if worker is not None:
                await attempt.take_over(worker, placement)
            # Committed: from here on nothing may end it as anything but SUCCEEDED, so nothing is awaited before that.
            self._services[name] = Service(placement, deployment.origin)
            self._adaptation.placed(name)
            self._res.telemetry.placement(placement)
            self._finish(deployment, None, placement.reason)
            if worker is None:
                self._overlay_arrived()
        chore = asyncio.get_running_loop().create_task(self._clean_up(name, attempt.replaced))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _placed(
        self, attempt: Attempt, package: VerifiedPackage, held: contextlib.AsyncExitStack
    ) -> tuple[Placement, Worker | None]:
        """Where the model goes, and its worker, proved, which an overlay has none of. ``held`` until that is in
        service: the model's turn, and its place among the models that share the node."""
        name, turn = package.manifest.name, self._turns[package.manifest.name]
        if package.manifest.is_overlay:
            await held.enter_async_context(turn)
            return await attempt.install(package), None
        measured = await attempt.measure(package, self._running(name))
        await held.enter_async_context(turn)
        adaptation = self._adaptation
        placement = placing.place(
            package, measured, self._running(name), adaptation.admit, adaptation.pushed, self._power_cap_w()
        )
        newcomer = replace(measured.demand, incumbent=placement.candidate)
        held.enter_context(self._adaptation.arriving(newcomer))
        return placement, await attempt.activate(package, placement, newcomer)

    def _running(self, name: str) -> Placement | None:
        service = self._services.get(name)
        return service.placement if service is not None and service.serves else None

    async def _clean_up(self, name: str, replaced: Worker | None) -> None:
        """After a success: the old worker ends, what no version needs any more goes."""
        try:
            if replaced is not None:
                await self._res.pool.stop(replaced)
            versions = self._res.store.versions(name)
            self._res.journal.drop_placements(name, {d for d in (versions.current, versions.previous) if d})
            self.removals.collect(self._awaited())
        except OverlaidError as error:
            log.warning("after the deployment of %s: %s", name, error)

    def _source(self, deployment: Deployment) -> BlockSource:
        if deployment.folder is not None:
            return FolderSource(deployment.folder)
        if self._wire is None:
            raise DeployError("this node has no broker: add [mqtt] to its config")
        return self._wire

    def _finish(self, deployment: Deployment, error: OverlaidError | None, why: str = "") -> None:
        self._ledger.closed(deployment, error, why)
        self._stop_with.pop(deployment.id, None)  # however it was to be stopped, this is how it ended

    def _digests(self) -> set[str]:
        """Packages that what is under way needs."""
        return {d.model.digest for name, d in self._ledger.latest.items() if name in self.models}

    def _awaited(self) -> set[str]:
        """Packages of which a part may have arrived that the next try goes on with."""
        wanted = self._wanted()
        return {
            last.model.digest
            for name, last in self._ledger.latest.items()
            if name in wanted and wanted[name].model == last.model and heals(last)
        }
