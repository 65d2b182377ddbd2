"""The deployments of a node, one at a time: a queue in the journal, the attempt that runs, what is installed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.deploy import phases
from agent.deploy.attempt import Attempt, final_state
from agent.deploy.journal import Deployment
from agent.deploy.reconcile import Effective, Installed, effective, reconcile
from agent.deploy.recovery import Service, restore
from agent.deploy.resources import BlockSource, FolderSource, Resources
from agent.errors import Canceled, DeployError, OverlaidError, StoreError, Superseded, UsageError, one_line
from agent.package.directory import PackageDir
from agent.package.verify import verify_package
from agent.types import Budget, DesiredModel, ModelStatus, Phase, Placement, State, Verdict

log = logging.getLogger("deploy")
MAX_ATTEMPTS = 3  # a deployment that the daemon never survives is the reboot loop's cause


class Manager:
    """Drives deployments. ``wire`` makes the source of blocks for fleet deployments, None without a broker."""

    def __init__(
        self,
        res: Resources,
        node: str,
        groups: tuple[str, ...],
        wire: Callable[[], BlockSource] | None,
        on_change: Callable[[], None],
        base_cap_w: float | None = None,
    ) -> None:
        self._res = res
        self._node, self._groups = node, groups
        self._wire = wire
        self._on_change = on_change
        self._base_cap_w = base_cap_w
        self._services: dict[str, Service] = {}
        self._progress: dict[str, tuple[Phase, float]] = {}
        self._queue: list[Deployment] = []
        self._removals: list[str] = []
        self._latest: dict[str, Deployment] = {}
        self._running: tuple[Deployment, asyncio.Task[Placement]] | None = None
        self._stop_with: DeployError | None = None
        self._wake = asyncio.Event()
        self._seen = self._applied = 0
        self.effective = Effective({}, None)

    # -- the outside's calls -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring back what was installed, then work off the queue until cancelled."""
        self._services = await restore(self._res)
        self._latest = self._res.journal.latest()
        self._queue = self._res.journal.unfinished()
        self.reconcile()
        while True:
            while self._removals:
                await self._remove(self._removals.pop(0))
            if self._queue:
                await self._work(self._queue.pop(0))
                continue
            self._applied = self._seen
            self._on_change()
            self._wake.clear()
            await self._wake.wait()

    def reconcile(self) -> None:
        """Compare the accepted desired states with what is installed and queue the difference."""
        desired = self._res.journal.desired()
        self._seen = max((state.revision for state in desired.values()), default=0)
        self.effective = effective(desired, self._node, self._groups)
        wanted = self.effective.models
        installed = {
            name: Installed(s.placement.digest, s.placement.budget, s.origin)
            for name, s in self._services.items()
            if not s.why
        }
        actions = reconcile(wanted, installed, self._latest)
        for name in actions.supersede:
            self._stop(name, Superseded("a newer desired state replaced it"))
        for want in actions.deploy:
            self._enqueue(self._res.journal.queue("fleet", want.target, want.revision, want.model))
        self._removals = list(actions.remove)
        self._wake.set()

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
        """Queue a package folder. Raises UsageError when the fleet manages the model, and what verification raises."""
        package = verify_package(PackageDir(folder).envelope(), self._res.package_keys)
        manifest = package.manifest
        if manifest.name in self.effective.models:
            raise UsageError(
                f"the fleet manages {manifest.name}; change it there (overlaid fleet deploy or undeploy)"
            )
        model = DesiredModel(manifest.name, manifest.version, package.digest, budget)
        self._stop(manifest.name, Superseded("a newer local deployment replaced it"))
        deployment = self._res.journal.queue("local", "local", 0, model, folder)
        self._enqueue(deployment)
        self._wake.set()
        return deployment

    async def undeploy_local(self, model: str) -> None:
        """Remove a locally deployed model; UsageError when there is none or the fleet manages it."""
        if model in self.effective.models:
            raise UsageError(f"the fleet manages {model}; use: overlaid fleet undeploy {model}")
        if model not in self._services:
            raise UsageError(f"{model} is not deployed here; see: overlaid models")
        self._stop(model, Superseded("the model was undeployed"))
        self._removals.append(model)
        self._wake.set()
        while model in self._services:
            await asyncio.sleep(0.05)

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
        measured = await phases.place(
            res, package, placement.budget, self.power_cap_w, placement.candidate, lambda _: None
        )
        return measured.verdicts

    def outcome(self, deployment_id: int) -> Deployment | None:
        """A deployment of the queue's past, by id, while it is its model's newest."""
        return next((d for d in self._latest.values() if d.id == deployment_id), None)

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every model that is in service, being deployed, or whose last deployment failed."""
        names = sorted({*self._services, *self._latest})
        return tuple(status for name in names if (status := self._status(name)) is not None)

    def placement(self, model: str) -> Placement | None:
        service = self._services.get(model)
        return service.placement if service else None

    # -- the queue -----------------------------------------------------------------------------------------------

    def _enqueue(self, deployment: Deployment) -> None:
        self._latest[deployment.model.name] = deployment
        self._queue.append(deployment)
        self._record(deployment)

    def _stop(self, model: str, error: DeployError) -> bool:
        """End the model's open deployment, queued or running, with this error."""
        for deployment in self._queue:
            if deployment.model.name == model:
                self._queue.remove(deployment)
                self._finish(deployment, error)
                return True
        if self._running is not None and self._running[0].model.name == model:
            self._stop_with = error
            self._running[1].cancel()
            return True
        return False

    async def _work(self, deployment: Deployment) -> None:
        task = asyncio.get_running_loop().create_task(self._attempt(deployment))
        self._running = (deployment, task)
        try:
            await self._succeed(deployment, await task)
        except asyncio.CancelledError:
            if self._stop_with is None:
                raise  # the daemon stops: the journal keeps the deployment open, the next start resumes it
            self._finish(deployment, self._stop_with)
        except OverlaidError as error:
            self._finish(deployment, error)
        except Exception as error:  # a bug must end this deployment, not the daemon
            log.exception("deployment of %s", deployment.model.name)
            self._finish(deployment, DeployError(f"internal error: {type(error).__name__}: {error}"))
        finally:
            self._running = self._stop_with = None
            self._progress.pop(deployment.model.name, None)
            self._on_change()

    async def _attempt(self, deployment: Deployment) -> Placement:
        if self._res.journal.begin(deployment) > MAX_ATTEMPTS:
            raise DeployError(
                f"the agent was stopped {MAX_ATTEMPTS} times while deploying it; deploy it again to retry"
            )
        name = deployment.model.name
        service = self._services.get(name)
        return await Attempt(
            self._res,
            deployment,
            self._source(deployment),
            self.power_cap_w,
            service.placement.candidate if service else None,
            lambda phase, share: self._advance(deployment, phase, share),
        ).run()

    def _source(self, deployment: Deployment) -> BlockSource:
        if deployment.folder is not None:
            return FolderSource(deployment.folder)
        if self._wire is None:
            raise DeployError("this node has no broker: add [mqtt] to its config")
        return self._wire()

    def _advance(self, deployment: Deployment, phase: Phase, share: float) -> None:
        name = deployment.model.name
        before = self._progress.get(name)
        self._progress[name] = (phase, share)
        if before is None or before[0] is not phase:
            self._latest[name] = replace(self._latest[name], state=State.IN_PROGRESS, phase=phase)
            self._record(self._latest[name])
        self._on_change()

    async def _succeed(self, deployment: Deployment, placement: Placement) -> None:
        name = deployment.model.name
        self._services[name] = Service(placement, deployment.origin)
        self._res.telemetry.placement(placement)
        self._finish(deployment, None, placement.reason)
        versions = self._res.store.versions(name)
        self._res.journal.drop_placements(name, {d for d in (versions.current, versions.previous) if d})
        await self._collect()

    def _finish(self, deployment: Deployment, error: OverlaidError | None, why: str = "") -> None:
        state = final_state(error) if error else State.SUCCEEDED
        why = f"{error.name}: {one_line(error)}" if error else why
        try:
            self._res.journal.finish(deployment, state, why)
        except StoreError as failed:  # still open in the journal: the next start tries again
            log.error("%s: %s", deployment.model.name, failed)
        last = self._latest.get(deployment.model.name, deployment)
        done = replace(last if last.id == deployment.id else deployment, state=state, why=why)
        if last.id == deployment.id:
            self._latest[deployment.model.name] = done
        self._record(done)
        self._on_change()

    def _record(self, deployment: Deployment) -> None:
        model, phase, why = deployment.model, deployment.phase, deployment.why
        log.info(
            "%s %s: %s %s %s", model.name, model.version, deployment.state.value, phase and phase.value, why
        )
        self._res.telemetry.deployment(model.name, model.version, model.digest, deployment.state, phase, why)

    # -- removal -------------------------------------------------------------------------------------------------

    async def _remove(self, name: str) -> None:
        await self._res.pool.unroute(name)
        self._services.pop(name, None)
        try:
            self._res.store.remove(name)
            self._res.journal.drop_placements(name, set())
        except StoreError as error:  # it would come back at the next start, and be removed then
            log.error("removing %s: %s", name, error)
        self._res.telemetry.event("removed", "no longer wanted", name)
        await self._collect()
        self._on_change()

    async def _collect(self) -> None:
        keep = {deployment.model.digest for deployment in self._queue}
        try:
            await asyncio.to_thread(self._res.store.collect, keep)
        except OverlaidError as error:
            log.warning("garbage collection: %s", error)

    # -- what is shown -------------------------------------------------------------------------------------------

    def _status(self, name: str) -> ModelStatus | None:
        latest, service = self._latest.get(name), self._services.get(name)
        live = self._res.pool.status(name)
        base = ModelStatus(
            name,
            service.placement.version if service else "",
            service.placement.digest if service else "",
            State.FAILED if service and service.why else State.SUCCEEDED,
            why=(service.why or service.placement.reason) if service else "",
            running_version=service.placement.version if service and not service.why else None,
            candidate=service.placement.candidate if service else None,
            budget=service.placement.budget if service else None,
            origin=service.origin if service else "fleet",
        )
        if latest is not None and self._shows(latest):
            progress = self._progress.get(name)
            base = replace(
                base,
                version=latest.model.version,
                digest=latest.model.digest,
                state=latest.state,
                phase=latest.phase if not latest.state.final else None,
                progress=progress[1] if progress else None,
                why=latest.why,
                budget=latest.model.budget,
                origin=latest.origin,
            )
        elif service is None:
            return None
        if live is None:
            return base
        return replace(
            base,
            requests=live.requests,
            errors=live.errors,
            p50_ms=live.histogram.percentile_ms(0.50),
            p99_ms=live.histogram.percentile_ms(0.99),
            restarts=live.restarts,
            pid=live.pid,
            ready=live.ready,
        )

    def _shows(self, latest: Deployment) -> bool:
        """An open deployment, or a failed one that is still what the fleet asks for."""
        if not latest.state.final:
            return True
        want = self.effective.models.get(latest.model.name)
        return latest.state is not State.SUCCEEDED and want is not None and want.model == latest.model
