"""What this node runs: desired state becomes running state, and stays."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.bindings import check_bindings
from agent.deploy import explaining
from agent.deploy.adaptation import Adaptation
from agent.deploy.bench import Bench
from agent.deploy.deployments import Deployments
from agent.deploy.journal import Deployment
from agent.deploy.ledger import Ledger
from agent.deploy.lost import LostDevices
from agent.deploy.measuring import Progress
from agent.deploy.reconcile import Effective, Installed, effective, reconcile
from agent.deploy.recovery import restore
from agent.deploy.resources import BlockSource, Resources
from agent.deploy.resuming import Ended, decide
from agent.deploy.service import Service
from agent.deploy.status import model_status
from agent.errors import Canceled, MessageError, OverlaidError, StoreError, Superseded, UsageError
from agent.package.directory import PackageDir
from agent.package.manifest import parse_manifest
from agent.package.verify import digest_of
from agent.placement.planning.candidates import NEEDS_OVERLAY
from agent.serving.events import PoolEvent
from agent.types import MAX_MODELS, Budget, Delivery, DesiredModel, DesiredState, ModelStatus, Placement
from agent.waiting import set_within

log = logging.getLogger("deploy")
RECONCILE_S = 30.0  # without news: heals what a full disk or an unreachable server left undone
REFUSED_S = 2.0  # while the disk refuses


class Manager:
    """Drives deployments, and where models run. ``wire`` is the source of blocks of fleet deployments, None without a
    broker. ``power_w``: what the node draws, None without a meter."""

    def __init__(
        self,
        res: Resources,
        node: str,
        groups: tuple[str, ...],
        wire: BlockSource | None,
        on_change: Callable[[], None],
        base_cap_w: float | None = None,
        power_w: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._res = res
        self._node, self._groups = node, groups
        self._wire, self._on_change = wire, on_change
        self._base_cap_w, self._power_w = base_cap_w, power_w
        self.restored = asyncio.Event()  # what was installed serves again, or is known not to
        self._services: dict[str, Service] = {}
        self._again = asyncio.Event()
        self._seen = self._applied = 0
        self._weighed_cap_w: float | None = None
        self.effective = Effective({}, None)
        self.problem = ""  # why what is desired cannot even be begun
        turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by model
        measuring = asyncio.Lock()
        self._turns = turns
        self._ledger = Ledger(res, on_change)
        self._lost = LostDevices(res, self._services, measuring, self._look)
        self._adaptation = Adaptation(
            res,
            self._services,
            turns,
            self._lost,
            measuring,
            lambda: self.power_cap_w,
            power_w,
            on_change,
            self._again.set,
        )
        self._deployments = Deployments(
            res,
            self._services,
            turns,
            measuring,
            self._adaptation,
            self._ledger,
            wire,
            lambda: self.power_cap_w,
            lambda: self.effective.models,
            self._overlay_arrived,
            self._ended,
        )
        self._removals = self._deployments.removals
        self._bench = Bench(res, self._services, measuring, self._adaptation)

    # -- the outside's calls -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring back what was installed, resume what was interrupted, keep to the desired states until cancelled."""
        adapting: asyncio.Task[None] | None = None
        try:
            self._read_desired()
            await restore(self._res, self._services, self._lost, self._adaptation, lambda: self.power_cap_w)
            self._ledger.load()
            self._weighed_cap_w = self.power_cap_w
            self._lost.resume()
            self._adaptation.resume()
            adapting = asyncio.get_running_loop().create_task(self._adaptation.run())
            self._resume()
            self.restored.set()
            while True:
                self._again.clear()
                written = self._ledger.write()
                try:
                    self._reconcile()
                    self._refused(self._res.journal.problem)
                except StoreError as error:  # e.g. a full disk, which may heal
                    self._refused(f"{error.name}: {error}")
                    written = False
                self._res.journal.standing.look(
                    {name: s.placement.digest for name, s in self._services.items() if s.serves}
                )
                await set_within(self._again, RECONCILE_S if written else REFUSED_S)
        finally:
            self._res.journal.standing.forgive()
            if adapting is not None:
                adapting.cancel()
                await asyncio.gather(adapting, return_exceptions=True)
            await asyncio.gather(self._lost.stop(), self._deployments.end(), return_exceptions=True)

    def _refused(self, problem: str) -> None:
        if problem != self.problem:
            if problem:
                log.error("%s", problem)
                self._res.telemetry.event("store-error", problem)
            self.problem = problem
            self._on_change()

    def _resume(self) -> None:
        """Decide about each deployment that the last process did not end."""
        for deployment in self._res.journal.unfinished():
            name = deployment.model.name
            service = self._services.get(name)
            placement = None if service is None or service.why else service.placement
            found = decide(deployment, self._ledger.latest[name], placement)
            if isinstance(found, Ended):
                self._ledger.closed(deployment, found.error, found.why)
                continue
            text = f"{deployment.model.version}: {found.why}"
            log.info("%s %s", name, text, extra={"model": name, "deployment": deployment.id})
            self._res.telemetry.event("resumed", text, name)
            self._deployments.start(replace(deployment, why=found.why))
        # What the last process would have cleaned up; what failed may be tried again, with what has arrived of it.
        self._removals.collect(last.model.digest for last in self._ledger.latest.values())

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
            if name not in self._removals.tasks
        }
        actions = reconcile(self.effective.models, installed, self._ledger.latest, self._ledger.may_retry())
        for name in actions.supersede:
            self._deployments.stop(name, Superseded("a newer desired state replaced it"))
        for name in actions.remove:
            if not self._removals.kept_for_programs(name):
                self._removals.start(name)
        for want in actions.deploy:
            self._deployments.start(self._res.journal.queue("fleet", want.target, want.revision, want.model))
        for name in actions.adopt:
            placement = self._services[name].placement
            self._res.journal.save_placement("fleet", placement)
            self._services[name] = Service(placement, "fleet")
        if self.power_cap_w != self._weighed_cap_w:
            self._weighed_cap_w = self.power_cap_w
            self._adaptation.look()
        if not self._deployments.models and not self._removals.tasks and not self._adaptation.busy:
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
        """Start a package folder, which is verified in its first phase. Raises UsageError when the fleet manages the
        model, ManifestError when the folder is no package."""
        if not self.restored.is_set():
            raise UsageError("the daemon is still bringing its models back; try again in a few seconds")
        encoded = PackageDir(folder).manifest()
        manifest = parse_manifest(encoded)
        if manifest.name in self.effective.models:
            raise UsageError(
                f"the fleet manages {manifest.name}; change it there (overlaid fleet deploy or undeploy)"
            )
        model = DesiredModel(manifest.name, manifest.version, digest_of(encoded), budget, instances)
        self._deployments.stop(manifest.name, Superseded("a newer local deployment replaced it"))
        deployment = self._res.journal.queue("local", "local", 0, model, folder)
        self._deployments.start(deployment)
        return deployment

    async def undeploy_local(self, model: str) -> None:
        """Remove a locally deployed model; UsageError when there is none or the fleet manages it."""
        if model in self.effective.models:
            raise UsageError(f"the fleet manages {model}; use: overlaid fleet undeploy {model}")
        if model not in self._services:
            raise UsageError(f"{model} is not deployed here; see: overlaid models")
        if self._removals.kept_for_programs(model):
            raise UsageError(
                f"programs run on overlay {model}; undeploy or move them first (overlaid models)"
            )
        self._deployments.stop(model, Superseded("the model was undeployed"))
        await asyncio.shield(self._removals.start(model))

    def cancel(self, model: str) -> bool:
        """Cancel the open deployment of a model; False when there is none."""
        return self._deployments.stop(model, Canceled("canceled by command"))

    def download(self, model: str) -> bool:
        """Let the open deployment of a model download at any hour; False when there is none that downloads."""
        latest = self._ledger.latest.get(model)
        if model not in self._deployments.models or self._wire is None or latest is None or latest.folder:
            return False
        self._wire.hurry(latest.model.digest)
        return True

    async def restart(self, model: str) -> None:
        """Replace the worker of a model by a fresh one; UsageError while the model is being deployed."""
        if model in self._deployments.models:
            raise UsageError(f"{model} is being deployed, which starts a fresh worker anyway")
        async with self._turns[model]:
            await self._res.pool.restart(model)

    async def bench(self, model: str, progress: Progress = lambda _: None) -> dict[str, Any]:
        """See ``Bench.measure``."""
        return await self._bench.measure(model, progress)

    async def explain(self, model: str) -> dict[str, Any]:
        """Why a model runs where it does, among the others, and what would change that, as JSON values; UsageError when
        it has no placement."""
        placement = self.placement(model)
        if placement is None:
            raise UsageError(f"{model} has no placement on this node; see: overlaid models")
        adaptation, meters = self._adaptation, self._res.board.meters
        demands, node = adaptation.as_seen()
        power_w, sigmas = self._power_w(), adaptation.slowdown_sigmas
        return await explaining.explained(placement, demands, adaptation.out, node, sigmas, power_w, meters)

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
                self._res.pool.builds.text(name),
                self._delivery(name),
            )
            for name in sorted({*self._services, *self._ledger.latest})
        )
        return tuple(status for status in found if status is not None)

    def _delivery(self, model: str) -> Delivery | None:
        latest = self._ledger.latest.get(model)
        if self._wire is None or latest is None or latest.folder is not None:
            return None
        found = self._wire.delivery(latest.model.digest)
        return None if found == Delivery() else found

    @property
    def lost_devices(self) -> Mapping[str, str]:
        """Devices that do not answer any more: why."""
        return self._lost.why

    def unwell(self, model: str, device: str, error: OverlaidError) -> None:
        """A worker of the model failed for its device's sake (DeviceLost, DmaTimeout, OverlayLoadError)."""
        self._lost.unwell(model, device, error)

    def served(self, event: PoolEvent) -> None:
        """A worker tells what it did."""
        self._adaptation.seen(event)

    def placement(self, model: str) -> Placement | None:
        service = self._services.get(model)
        return service.placement if service else None

    # -- what happens --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._adaptation.look()
        self._on_change()

    def _ended(self) -> None:
        """A deployment or a removal is over."""
        self._adaptation.look()
        self._again.set()

    def _overlay_arrived(self) -> None:
        """Deploy again what failed for want of an overlay, and what runs elsewhere for want of it."""
        self._ledger.overlay_arrived()
        for name, service in self._services.items():
            want = self.effective.models.get(name)
            missed = any(v.reason.startswith(NEEDS_OVERLAY) for v in service.placement.verdicts)
            if missed and want is not None and name not in self._deployments.models:
                self._deployments.start(
                    self._res.journal.queue("fleet", want.target, want.revision, want.model)
                )
