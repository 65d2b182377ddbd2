"""After a start: put back into service what was committed, whatever the last process died of."""

from __future__ import annotations

import logging
import time

from agent.deploy import phases, workers
from agent.deploy.replace import Replacer
from agent.deploy.resources import Resources
from agent.deploy.service import Service, reweighed
from agent.errors import OverlaidError, StoreError, one_line
from agent.package.verify import VerifiedPackage
from agent.serving.processes.process import Worker
from agent.serving.unwell import UNWELL
from agent.types import Placement

log = logging.getLogger("deploy")


async def restore(res: Resources, power_cap_w: float | None, replacer: Replacer) -> dict[str, Service]:
    """Start every installed model on its last placement; measure anew, then go back a version, when that fails.

    A device that is lost is told to ``replacer``; a model that no other device runs waits for it without a worker.
    """
    services = {}
    for model, versions in res.store.models().items():
        restoring = _Restoring(res, power_cap_w, replacer, model)
        service = await restoring.bring(versions.current, versions.previous)
        if service is not None:
            services[model] = service
    res.pool.expect(name for name, s in services.items() if s.serves and res.pool.status(name) is None)
    return services


class _Restoring:
    """One model on its way back."""

    def __init__(self, res: Resources, power_cap_w: float | None, replacer: Replacer, model: str) -> None:
        self._res, self._power_cap_w, self._replacer, self._model = res, power_cap_w, replacer, model

    async def bring(self, current: str | None, previous: str | None) -> Service | None:
        """The service of the first version that starts, else why the newer one did not; None without a placement."""
        res, model = self._res, self._model
        first: Service | None = None
        for digest in (current, previous):
            placed = res.journal.placement(model, digest) if digest else None
            if digest is None or placed is None:
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
                res.telemetry.event("returned", f"went back to {placement.version}", model)
            return Service(placement, placed.origin)
        return first

    async def _start(self, old: Placement, origin: str) -> Placement:
        """What serves now, or waits for its device."""
        res = self._res
        package = phases.installed_package(res, old.digest)
        if package.manifest.is_overlay:
            return old  # programs load it when they are opened
        try:
            placement, worker = await self._on_what_is_left(package, old)
        except StoreError:
            raise
        except OverlaidError as error:
            # A runtime that was there before may be gone, or be another: what is measured now decides.
            log.warning("%s: %s: %s; measuring again", self._model, error.name, error)
            placement = await phases.place(
                res, package, old.budget, old.instances, self._power_cap_w, None, lambda _: None
            )
            worker = await workers.start_placed(res, package, placement)
        if worker is not None:
            await res.pool.route(self._model, worker)
        if placement != old:
            try:
                res.journal.save_placement(origin, placement)
            except StoreError as error:  # the next start finds it out again
                log.error("%s: %s", self._model, error)
        return placement

    async def _on_what_is_left(
        self, package: VerifiedPackage, placement: Placement
    ) -> tuple[Placement, Worker | None]:
        """On the placement's candidate, or the best on a device that is not lost; no worker when there is none."""
        lost = self._replacer.lost
        while True:
            if placement.candidate.device in lost:
                placement = reweighed(placement, self._power_cap_w, lost, time.time())
            device = placement.candidate.device
            if device in lost:
                return placement, None
            try:
                return placement, await workers.start_placed(self._res, package, placement)
            except UNWELL as error:
                self._replacer.lose(device, error)
