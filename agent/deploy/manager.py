"""The deployments of a node: each model's one after another, different models beside each other.

Measuring is exclusive, because two candidates that are measured at once would spoil each other's figures; a download
that waits for a silent server holds nobody else up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.deploy import phases
from agent.deploy.attempt import Attempt, final_state
from agent.deploy.journal import Deployment
from agent.deploy.reconcile import Effective, Installed, effective, reconcile
from agent.deploy.recovery import Service, restore
from agent.deploy.resources import BlockSource, FolderSource, Resources
from agent.deploy.status import model_status
from agent.errors import Canceled, DeployError, OverlaidError, StoreError, Superseded, UsageError, one_line
from agent.package.directory import PackageDir
from agent.package.verify import verify_package
from agent.types import Budget, DesiredModel, ModelStatus, Phase, Placement, State, Verdict

log = logging.getLogger("deploy")
MAX_ATTEMPTS = 3  # a deployment that the daemon never survives is the reboot loop's cause


class Manager:
    """Drives deployments. ``wire`` is the source of blocks of fleet deployments, None without a broker."""

    def __init__(
        self,
        res: Resources,
        node: str,
        groups: tuple[str, ...],
        wire: BlockSource | None,
        on_change: Callable[[], None],
        base_cap_w: float | None = None,
    ) -> None:
        self._res = res
        self._node, self._groups = node, groups
        self._wire = wire
        self._on_change = on_change
        self._base_cap_w = base_cap_w
        self._restored = False
        self._services: dict[str, Service] = {}
        self._latest: dict[str, Deployment] = {}
        self._progress: dict[str, float] = {}
        self._open: dict[int, tuple[str, asyncio.Task[None]]] = {}  # deployments by id: model, task
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._stop_with: dict[int, DeployError] = {}
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by model
        self._measuring = asyncio.Lock()
        self._seen = self._applied = 0
        self.effective = Effective({}, None)

    # -- the outside's calls -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring back what was installed, resume what was interrupted, then work until cancelled."""
        try:
            self._services = await restore(self._res)
            self._latest = self._res.journal.latest()
            for deployment in self._res.journal.unfinished():
                self._start(deployment)
            self._restored = True
            self.reconcile()
            await asyncio.Event().wait()
        finally:
            tasks = [*(task for _, task in self._open.values()), *self._removing.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def reconcile(self) -> None:
        """Compare the accepted desired states with what is installed and start the difference."""
        if not self._restored:
            return  # it is done at the end of the restoration
        desired = self._res.journal.desired()
        self._seen = max((state.revision for state in desired.values()), default=0)
        self.effective = effective(desired, self._node, self._groups)
        installed = {
            name: Installed(s.placement.digest, s.placement.budget, s.origin)
            for name, s in self._services.items()
            if not s.why
        }
        actions = reconcile(self.effective.models, installed, self._latest)
        for name in actions.supersede:
            self._stop(name, Superseded("a newer desired state replaced it"))
        for want in actions.deploy:
            self._start(self._res.journal.queue("fleet", want.target, want.revision, want.model))
        for name in actions.remove:
            self._start_removal(name)
        self._settle()

    @property
    def power_cap_w(self) -> float | None:
        """The lower of the config's and the fleet's cap."""
        caps = [cap for cap in (self._base_cap_w, self.effective.power_cap_w) if cap is not None]
        return min(caps, default=None)

    @property
    def revision_seen(self) -> int:
        """The newest accepted revision, whether of the node or of one of its groups: an operator counts revisions
        over all targets of a site. 0 when none was."""
        return self._seen

    @property
    def revision_applied(self) -> int:
        """``revision_seen`` of the last moment at which every deployment and removal had ended; 0 when none was."""
        return self._applied

    def deploy_local(self, folder: Path, budget: Budget) -> Deployment:
        """Start a package folder. Raises UsageError when the fleet manages the model, and what verification raises."""
        package = verify_package(PackageDir(folder).envelope(), self._res.package_keys)
        manifest = package.manifest
        if manifest.name in self.effective.models:
            raise UsageError(
                f"the fleet manages {manifest.name}; change it there (overlaid fleet deploy or undeploy)"
            )
        model = DesiredModel(manifest.name, manifest.version, package.digest, budget)
        self._stop(manifest.name, Superseded("a newer local deployment replaced it"))
        deployment = self._res.journal.queue("local", "local", 0, model, folder)
        self._start(deployment)
        return deployment

    async def undeploy_local(self, model: str) -> None:
        """Remove a locally deployed model; UsageError when there is none or the fleet manages it."""
        if model in self.effective.models:
            raise UsageError(f"the fleet manages {model}; use: overlaid fleet undeploy {model}")
        if model not in self._services:
            raise UsageError(f"{model} is not deployed here; see: overlaid models")
        self._stop(model, Superseded("the model was undeployed"))
        await asyncio.shield(self._start_removal(model))

    def cancel(self, model: str) -> bool:
        """Cancel the open deployment of a model; False when there is none."""
        return self._stop(model, Canceled("canceled by command"))

    async def bench(self, model: str) -> tuple[Verdict, ...]:
        """Measure every candidate of a model in service again; its placement stays. UsageError when not in service."""
        service = self._services.get(model)
        if service is None:
            raise UsageError(f"{model} is not deployed here; see: overlaid models")
        res, placement = self._res, service.placement
        package = verify_package(res.store.manifest(placement.digest), res.package_keys, placement.digest)
        async with self._measuring:
            measured = await phases.place(
                res, package, placement.budget, self.power_cap_w, placement.candidate, lambda _: None
            )
        return measured.verdicts

    def outcome(self, deployment_id: int) -> Deployment | None:
        """A deployment by id while it is its model's newest."""
        return next((d for d in self._latest.values() if d.id == deployment_id), None)

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every model that is in service, being deployed, or whose last deployment failed and is still wanted."""
        found = (
            model_status(
                name,
                self._services.get(name),
                self._latest.get(name),
                self._progress.get(name),
                self.effective.models.get(name),
                self._res.pool.status(name),
            )
            for name in sorted({*self._services, *self._latest})
        )
        return tuple(status for status in found if status is not None)

    def placement(self, model: str) -> Placement | None:
        service = self._services.get(model)
        return service.placement if service else None

    # -- deployments ---------------------------------------------------------------------------------------------

    def _start(self, deployment: Deployment) -> None:
        name = deployment.model.name
        self._latest[name] = deployment
        self._record(deployment)
        self._open[deployment.id] = (name, self._task(self._work(deployment)))

    def _stop(self, model: str, error: DeployError) -> bool:
        """End the model's open deployments with this error; False when there is none."""
        found = [(number, task) for number, (name, task) in self._open.items() if name == model]
        for number, task in found:
            self._stop_with.setdefault(number, error)
            task.cancel()
        return bool(found)

    async def _work(self, deployment: Deployment) -> None:
        try:
            async with self._turn[deployment.model.name]:
                await self._attempt(deployment)
        except asyncio.CancelledError:
            error = self._stop_with.get(deployment.id)
            if error is None:
                raise  # the daemon stops: the journal keeps the deployment open, the next start resumes it
            self._finish(deployment, error)
        except OverlaidError as error:
            self._finish(deployment, error)
        except Exception as error:  # a bug must end this deployment, not the daemon
            log.exception("deployment of %s", deployment.model.name)
            self._finish(deployment, DeployError(f"internal error: {type(error).__name__}: {error}"))
        finally:
            self._open.pop(deployment.id, None)
            self._stop_with.pop(deployment.id, None)
            self._settle()

    async def _attempt(self, deployment: Deployment) -> None:
        name = deployment.model.name
        if self._res.journal.begin(deployment) > MAX_ATTEMPTS:
            raise DeployError(
                f"the agent was stopped {MAX_ATTEMPTS} times in this deployment; deploy again to retry"
            )
        service = self._services.get(name)
        attempt = Attempt(
            self._res,
            deployment,
            self._source(deployment),
            self._measuring,
            lambda: self.power_cap_w,
            service.placement.candidate if service else None,
            lambda phase, share: self._advance(deployment, phase, share),
        )
        placement = await attempt.run()
        # Committed: from here on nothing may end it as anything but SUCCEEDED, so nothing is awaited before that.
        self._services[name] = Service(placement, deployment.origin)
        self._res.telemetry.placement(placement)
        self._finish(deployment, None, placement.reason)
        versions = self._res.store.versions(name)
        self._res.journal.drop_placements(name, {d for d in (versions.current, versions.previous) if d})
        if attempt.replaced is not None:
            await self._res.pool.stop(attempt.replaced)
        self._collect()

    def _source(self, deployment: Deployment) -> BlockSource:
        if deployment.folder is not None:
            return FolderSource(deployment.folder)
        if self._wire is None:
            raise DeployError("this node has no broker: add [mqtt] to its config")
        return self._wire

    def _advance(self, deployment: Deployment, phase: Phase, share: float) -> None:
        name = deployment.model.name
        self._progress[name] = share
        last = self._latest[name]
        if last.id == deployment.id and last.phase is not phase:
            self._latest[name] = replace(last, state=State.IN_PROGRESS, phase=phase)
            self._record(self._latest[name])
        self._on_change()

    def _finish(self, deployment: Deployment, error: OverlaidError | None, why: str = "") -> None:
        name = deployment.model.name
        state = final_state(error) if error else State.SUCCEEDED
        why = f"{error.name}: {one_line(error)}" if error else why
        try:
            self._res.journal.finish(deployment, state, why)
        except StoreError as failed:  # still open in the journal: the next start tries again
            log.error("%s: %s", name, failed)
        last = self._latest[name]
        done = replace(last if last.id == deployment.id else deployment, state=state, why=why)
        if last.id == deployment.id:
            self._latest[name] = done
            self._progress.pop(name, None)
        self._record(done)

    def _record(self, deployment: Deployment) -> None:
        model, phase, why = deployment.model, deployment.phase, deployment.why
        where = "" if phase is None or deployment.state.final else f" {phase.value}"
        log.info("%s %s: %s%s %s", model.name, model.version, deployment.state.value, where, why)
        self._res.telemetry.deployment(model.name, model.version, model.digest, deployment.state, phase, why)

    def _settle(self) -> None:
        if not self._open and not self._removing:
            self._applied = self._seen
        self._on_change()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    # -- removal -------------------------------------------------------------------------------------------------

    def _start_removal(self, name: str) -> asyncio.Task[None]:
        if name not in self._removing:
            self._removing[name] = self._task(self._remove(name))
        return self._removing[name]

    async def _remove(self, name: str) -> None:
        try:
            async with self._turn[name]:
                await self._res.pool.unroute(name)
                self._services.pop(name, None)
                self._res.store.remove(name)
                self._res.journal.drop_placements(name, set())
                self._res.telemetry.event("removed", "no longer wanted", name)
                self._collect()
        except (
            OverlaidError
        ) as error:  # on the disk still: it comes back at the next start, and is removed then
            log.error("removing %s: %s", name, error)
        finally:
            self._removing.pop(name, None)
            self._settle()

    def _collect(self) -> None:
        """On the event loop, so that no deployment can store anything between the look and the removal."""
        open_names = {name for name, _ in self._open.values()}
        keep = {d.model.digest for name, d in self._latest.items() if name in open_names}
        try:
            self._res.store.collect(keep)
        except OverlaidError as error:
            log.warning("garbage collection: %s", error)
