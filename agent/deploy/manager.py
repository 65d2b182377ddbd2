"""The deployments of a node: each model's one after another, different models beside each other.

Measuring is exclusive, because two candidates that are measured at once would spoil each other's figures; a download
that waits for a silent server holds nobody else up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from agent.bindings import check_bindings
from agent.deploy import overlays, phases
from agent.deploy.attempt import Attempt
from agent.deploy.journal import Deployment
from agent.deploy.ledger import Ledger
from agent.deploy.reconcile import Effective, Installed, effective, reconcile
from agent.deploy.recovery import restore
from agent.deploy.replace import Replacer
from agent.deploy.resources import BlockSource, FolderSource, Resources
from agent.deploy.service import Service
from agent.deploy.status import model_status
from agent.errors import (
    Canceled,
    DeployError,
    MessageError,
    OverlaidError,
    StoreError,
    Superseded,
    UsageError,
)
from agent.package.directory import PackageDir
from agent.package.verify import verify_package
from agent.placement import plan
from agent.serving.processes.process import Worker
from agent.types import (
    MAX_MODELS,
    Budget,
    DesiredModel,
    DesiredState,
    ModelStatus,
    Placement,
    Verdict,
)
from agent.waiting import set_within

log = logging.getLogger("deploy")
RECONCILE_S = 30.0  # without news: heals what a full disk or an unreachable server left undone
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
        self.restored = asyncio.Event()  # what was installed serves again, or is known not to
        self._services: dict[str, Service] = {}
        self._ledger = Ledger(res, on_change)
        self._open: dict[int, tuple[str, asyncio.Task[None]]] = {}  # deployments by id: model, task
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._kept: set[str] = set()  # overlays that are not wanted, and that programs run on
        self._stop_with: dict[int, DeployError] = {}
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by model
        self._measuring = asyncio.Lock()
        self._again = asyncio.Event()
        self._chores: set[asyncio.Task[None]] = set()
        self._seen = self._applied = 0
        self.effective = Effective({}, None)
        self._replacer = Replacer(
            res,
            self._services,
            lambda: {*self._services, *(name for name, _ in self._open.values())},
            self._turn,
            self._measuring,
            lambda: self.power_cap_w,
            on_change,
            self._again.set,
        )

    # -- the outside's calls -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring back what was installed, resume what was interrupted, keep to the desired states until cancelled."""
        try:
            self._read_desired()
            self._services.update(await restore(self._res, self.power_cap_w, self._replacer))
            self._ledger.load()
            self._replacer.resume()
            for deployment in self._res.journal.unfinished():
                self._start(deployment)
            self.restored.set()
            while True:
                self._again.clear()
                try:
                    self._reconcile()
                except StoreError as error:  # e.g. a full disk, which may heal
                    log.error("%s", error)
                await set_within(self._again, RECONCILE_S)
        finally:
            tasks = [*(task for _, task in self._open.values()), *self._removing.values(), *self._chores]
            for task in tasks:
                task.cancel()
            await asyncio.gather(self._replacer.stop(), *tasks, return_exceptions=True)

    def reconcile(self) -> None:
        """A desired state was accepted: compare it soon with what is installed and start the difference."""
        self._again.set()

    def _reconcile(self) -> None:
        self._read_desired()
        installed = {
            name: Installed(
                s.placement.digest, s.placement.budget, s.origin, not s.why, s.placement.instances
            )
            for name, s in self._services.items()
            if name not in self._removing
        }
        actions = reconcile(self.effective.models, installed, self._ledger.latest, self._ledger.may_retry())
        for name in actions.supersede:
            self._stop(name, Superseded("a newer desired state replaced it"))
        for name in actions.remove:
            if not self._kept_for_programs(name):
                self._start_removal(name)
        for want in actions.deploy:
            self._start(self._res.journal.queue("fleet", want.target, want.revision, want.model))
        for name in actions.adopt:
            placement = self._services[name].placement
            self._res.journal.save_placement("fleet", placement)
            self._services[name] = Service(placement, "fleet")
        self._replacer.keep_up()
        if not self._open and not self._removing and not self._replacer.busy:
            self._applied = self._seen
        self._on_change()

    def admit(self, target: str, state: DesiredState) -> None:
        """MessageError when the node would have to run more models than it can report, or bindings that do not go
        together."""
        merged = effective({**self._res.journal.desired(), target: state}, self._node, self._groups)
        if len(merged.models) > MAX_MODELS:
            raise MessageError(
                f"with its groups' this node would run {len(merged.models)} models, more than {MAX_MODELS}: refused"
            )
        try:
            check_bindings(merged.bindings)
        except ValueError as error:
            raise MessageError(f"with its groups', {error}: refused") from error

    def _read_desired(self) -> None:
        desired = self._res.journal.desired()
        self._seen = max((state.revision for state in desired.values()), default=0)
        self.effective = effective(desired, self._node, self._groups)

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
        """``revision_seen`` of the last moment at which every deployment, removal and move had ended; 0 when none
        was."""
        return self._applied

    def deploy_local(self, folder: Path, budget: Budget, instances: int = 1) -> Deployment:
        """Start a package folder. Raises UsageError when the fleet manages the model, and what verification raises."""
        if not self.restored.is_set():
            raise UsageError("the daemon is still bringing its models back; try again in a few seconds")
        package = verify_package(PackageDir(folder).envelope(), self._res.package_keys)
        manifest = package.manifest
        if manifest.name in self.effective.models:
            raise UsageError(
                f"the fleet manages {manifest.name}; change it there (overlaid fleet deploy or undeploy)"
            )
        model = DesiredModel(manifest.name, manifest.version, package.digest, budget, instances)
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
        if self._kept_for_programs(model):
            raise UsageError(
                f"programs run on overlay {model}; undeploy or move them first (overlaid models)"
            )
        self._stop(model, Superseded("the model was undeployed"))
        await asyncio.shield(self._start_removal(model))

    def cancel(self, model: str) -> bool:
        """Cancel the open deployment of a model; False when there is none."""
        return self._stop(model, Canceled("canceled by command"))

    async def restart(self, model: str) -> None:
        """Replace the worker of a model by a fresh one; UsageError while the model is being deployed."""
        if any(name == model for name, _ in self._open.values()):
            raise UsageError(f"{model} is being deployed, which starts a fresh worker anyway")
        async with self._turn[model]:
            await self._res.pool.restart(model)

    async def bench(self, model: str) -> tuple[Verdict, ...]:
        """Measure every candidate of a model in service again; its placement stays. UsageError when not in service."""
        service = self._services.get(model)
        if service is None:
            raise UsageError(f"{model} is not deployed here; see: overlaid models")
        res, placement = self._res, service.placement
        package = phases.installed_package(res, placement.digest)
        async with self._measuring:
            measured = await phases.place(
                res,
                package,
                placement.budget,
                placement.instances,
                self.power_cap_w,
                placement,
                lambda _: None,
            )
        return measured.verdicts

    def outcome(self, deployment_id: int) -> Deployment | None:
        """A deployment by id while it is its model's newest."""
        return self._ledger.find(deployment_id)

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every model that is in service, being deployed, or whose last deployment failed and is still wanted."""
        found = (
            model_status(
                name,
                self._services.get(name),
                self._ledger.latest.get(name),
                self._ledger.progress.get(name),
                self.effective.models.get(name),
                self._res.pool.status(name),
            )
            for name in sorted({*self._services, *self._ledger.latest})
        )
        return tuple(status for status in found if status is not None)

    @property
    def lost_devices(self) -> Mapping[str, str]:
        """Devices that do not answer any more: why."""
        return self._replacer.lost

    def unwell(self, model: str, device: str, error: OverlaidError) -> None:
        """A worker of the model failed for its device's sake (DeviceLost, DmaTimeout, OverlayLoadError)."""
        self._replacer.unwell(model, device, error)

    def placement(self, model: str) -> Placement | None:
        service = self._services.get(model)
        return service.placement if service else None

    # -- deployments ---------------------------------------------------------------------------------------------

    def _start(self, deployment: Deployment) -> None:
        self._ledger.opened(deployment)
        task = self._task(self._work(deployment))
        self._open[deployment.id] = (deployment.model.name, task)
        task.add_done_callback(lambda _: self._close(deployment))

    def _close(self, deployment: Deployment) -> None:
        """The deployment's task is over; one that was stopped before its first step has not ended by itself."""
        error = self._stop_with.get(deployment.id)
        if error is not None:
            self._finish(deployment, error)
        del self._open[deployment.id]
        self._again.set()

    def _stop(self, model: str, error: DeployError) -> bool:
        """End the model's open deployments with this error; False when there is none."""
        found = [
            (number, task) for number, (name, task) in self._open.items() if name == model and not task.done()
        ]
        for number, task in found:
            self._stop_with.setdefault(number, error)
            task.cancel()
        return bool(found)

    async def _work(self, deployment: Deployment) -> None:
        try:
            await self._attempt(deployment)
        except asyncio.CancelledError:
            error = self._stop_with.get(deployment.id)
            if error is None:
                with contextlib.suppress(StoreError):
                    self._res.journal.forgive(deployment)
                raise  # the daemon stops: the journal keeps the deployment open, the next start resumes it
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
            self._measuring,
            lambda: self.power_cap_w,
            lambda: self._make_room(name),
            partial(self._ledger.advance, deployment),
        )
        package = await attempt.deliver()  # which may take long: what serves may move meanwhile
        async with self._turn[name]:
            service = self._services.get(name)
            placement = await attempt.place(package, service.placement if service else None)
            # Committed: from here on nothing may end it as anything but SUCCEEDED, so nothing is awaited before that.
            self._services[name] = Service(placement, deployment.origin)
            self._replacer.placed(name)
            self._res.telemetry.placement(placement)
            self._finish(deployment, None, placement.reason)
            if not self._services[name].serves:
                self._overlay_arrived()
        chore = self._task(self._clean_up(name, attempt.replaced))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def _overlay_arrived(self) -> None:
        """Deploy again what failed for want of an overlay, and what runs elsewhere for want of it."""
        self._ledger.overlay_arrived()
        for name, service in self._services.items():
            want = self.effective.models.get(name)
            missed = any(v.reason.startswith(plan.NEEDS_OVERLAY) for v in service.placement.verdicts)
            if missed and want is not None and all(name != open_name for open_name, _ in self._open.values()):
                self._start(self._res.journal.queue("fleet", want.target, want.revision, want.model))

    async def _clean_up(self, name: str, replaced: Worker | None) -> None:
        """After a success: the old worker ends, what no version needs any more goes."""
        try:
            if replaced is not None:
                await self._res.pool.stop(replaced)
            versions = self._res.store.versions(name)
            self._res.journal.drop_placements(name, {d for d in (versions.current, versions.previous) if d})
            self._collect()
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

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    # -- removal -------------------------------------------------------------------------------------------------

    def _start_removal(self, name: str) -> asyncio.Task[None]:
        if name not in self._removing:
            self._removing[name] = self._task(self._remove(name))
        return self._removing[name]

    def _kept_for_programs(self, name: str) -> bool:
        """True while programs in service run on the overlay ``name``: it goes after the last of them."""
        users = [] if self._services[name].serves else overlays.users(self._res, name, self._services)
        if users and name not in self._kept:
            text = f"stays until nothing runs on it any more: {', '.join(users)}"
            log.info("%s: %s", name, text)
            self._res.telemetry.event("kept", text, name)
        (self._kept.add if users else self._kept.discard)(name)
        return bool(users)

    async def _remove(self, name: str) -> None:
        try:
            async with self._turn[name]:
                await self._res.pool.unroute(name)
                self._services.pop(name, None)
                self._res.store.remove(name)
                self._res.journal.drop_placements(name, set())
                self._res.telemetry.event("removed", "no longer wanted", name)
                self._collect()
        except OverlaidError as error:  # still on the disk: back at the next start, and removed then
            log.error("removing %s: %s", name, error)
        finally:
            self._removing.pop(name, None)
            self._again.set()

    def _collect(self) -> None:
        """On the event loop, so that no deployment can store anything between the look and the removal."""
        try:
            self._res.store.collect(self._open_digests())
        except OverlaidError as error:
            log.warning("garbage collection: %s", error)

    async def _make_room(self, name: str) -> None:
        """Wait for the removals of other models under way, then drop what nothing needs."""
        removals = [task for model, task in self._removing.items() if model != name]
        await asyncio.gather(*(asyncio.shield(task) for task in removals), return_exceptions=True)
        self._collect()

    def _open_digests(self) -> set[str]:
        open_names = {name for name, _ in self._open.values()}
        return {d.model.digest for name, d in self._ledger.latest.items() if name in open_names}
