"""After a start: put back into service what was committed, whatever the last process died of."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping

from agent.deploy import phases, placing, workers
from agent.deploy.adaptation import Adaptation
from agent.deploy.journal import Placed
from agent.deploy.lost import LostDevices
from agent.deploy.resources import Resources
from agent.deploy.service import Service
from agent.deploy.standing import MAX_STARTS, STAND_S
from agent.errors import DeployError, OverlaidError, StoreError, one_line
from agent.logs.fields import about
from agent.package.verify import VerifiedPackage
from agent.serving.unwell import UNWELL
from agent.types import Placement, State

log = logging.getLogger("deploy")


async def restore(
    res: Resources,
    services: MutableMapping[str, Service],
    lost: LostDevices,
    adaptation: Adaptation,
    power_cap_w: Callable[[], float | None],
) -> None:
    """Start every installed model on its last placement; measure anew, then go back a version, when that fails.

    What was shed stays so, and what was on a device that is lost now waits: the first look sees where they can go.
    """
    restoring = _Restoring(res, services, lost, adaptation, power_cap_w)
    for model, versions in res.store.models().items():
        service = await restoring.bring(model, versions.current, versions.previous)
        if service is not None:
            services[model] = service
    res.pool.expect(())


class _Restoring:
    """The models on their way back."""

    def __init__(
        self,
        res: Resources,
        services: MutableMapping[str, Service],
        lost: LostDevices,
        adaptation: Adaptation,
        power_cap_w: Callable[[], float | None],
    ) -> None:
        self._res, self._services, self._lost = res, services, lost
        self._adaptation, self._power_cap_w = adaptation, power_cap_w

    async def bring(self, model: str, current: str | None, previous: str | None) -> Service | None:
        """The service of the first version that starts, else why the newer one did not; None without a placement."""
        with about(model=model):
            return await self._bring(model, current, previous)

    async def _bring(self, model: str, current: str | None, previous: str | None) -> Service | None:
        res = self._res
        first: Service | None = None
        for digest in (current, previous):
            placed = res.journal.placement(model, digest) if digest else None
            if digest is None or placed is None:
                continue
            stands = res.journal.standing.starting(model, digest)
            if not stands and digest == current and self._may_start(model, previous):
                first = self._give_up(placed)
                continue
            try:
                placement = await self._start(placed.placement, placed.origin)
            except OverlaidError as error:
                why = f"could not be started again: {error.name}: {one_line(error)}"
                log.error("%s %s %s", model, placed.placement.version, why)
                res.telemetry.event("restore-failed", why, model)
                first = first or Service(placed.placement, placed.origin, why)
                continue
            if digest == previous:
                try:
                    res.store.revert(model)
                except StoreError as error:  # the next start goes back again
                    log.error("%s: %s", model, error)
                log.warning("%s: went back to %s", model, placement.version)
                res.telemetry.event("returned", f"went back to {placement.version}", model)
            return Service(placement, placed.origin)
        return first

    def _may_start(self, model: str, digest: str | None) -> bool:
        return digest is not None and self._res.journal.placement(model, digest) is not None

    def _give_up(self, placed: Placed) -> Service:
        """The daemon dies again and again with this version: a deployment of its own says so, because the fleet may
        want it still, and what failed is not tried again."""
        res, old = self._res, placed.placement
        error = DeployError(
            f"the agent ended {MAX_STARTS} times within {STAND_S:g} s of starting with it; deploy it again to retry"
        )
        why = f"{error.name}: {error}"
        log.error("%s %s: %s", old.model, old.version, error)
        res.telemetry.event("given-up", f"{old.version}: {error}", old.model)
        last = res.journal.latest().get(old.model)
        try:
            if last is not None and last.model.digest == old.digest and last.state.final:
                again = res.journal.queue(last.origin, last.target, last.revision, last.model, last.folder)
                res.journal.finish(again, State.FAILED, why)
        except StoreError as refused:
            log.error("%s: %s", old.model, refused)
        return Service(old, placed.origin, why)

    async def _start(self, old: Placement, origin: str) -> Placement:
        """What serves now, or waits."""
        package = phases.installed_package(self._res, old.digest)
        if package.manifest.is_overlay:
            return old  # programs load it when they are opened
        try:
            await self._where_it_was(package, old)
        except StoreError:
            raise
        except OverlaidError as error:
            # A runtime that was there before may be gone, or be another: what is measured now decides.
            log.warning("%s: %s: %s; measuring again", old.model, error.name, error)
            return await self._anew(package, old, origin)
        return old

    async def _where_it_was(self, package: VerifiedPackage, placement: Placement) -> None:
        device, why = placement.candidate.device, placement.reason
        if not placement.shed and device not in self._lost.why:
            try:
                worker = await workers.start_placed(self._res, package, placement)
            except UNWELL as error:
                self._lost.lose(device, error)
            else:
                await self._res.pool.route(placement.model, worker)
                return
        if not placement.shed:
            self._lost.stale.add(placement.model)
            why = f"{device} is lost: {self._lost.why[device]}"
        spec = workers.worker_spec(self._res, package, placement.candidate)
        await self._res.pool.hold(spec, why)

    async def _anew(self, package: VerifiedPackage, old: Placement, origin: str) -> Placement:
        res, admit, quiet = self._res, self._adaptation.admit, self._adaptation.quiet()
        async with self._adaptation.claiming(old.model, old.budget, quiet) as claim:
            measured = await placing.measured(
                res, package, old.budget, old.instances, None, admit, quiet, claim, lambda _: None
            )
        placement = placing.place(
            package, measured, None, admit, self._adaptation.pushed, self._power_cap_w()
        )
        worker = await workers.start_placed(res, package, placement)
        await res.pool.route(old.model, worker)
        try:
            res.journal.save_placement(origin, placement)
        except StoreError as error:  # the next start finds it out again
            log.error("%s: %s", old.model, error)
        return placement
