"""After a start: put back into service what was committed, whatever the last process died of."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agent.deploy import phases
from agent.deploy.resources import Resources
from agent.errors import OverlaidError, StoreError, one_line
from agent.types import Placement

log = logging.getLogger("deploy")


@dataclass(frozen=True, slots=True)
class Service:
    """A model in service, or one that could not be brought back (``why`` says what happened)."""

    placement: Placement
    origin: str
    why: str = ""


async def restore(res: Resources, power_cap_w: float | None) -> dict[str, Service]:
    """Start every installed model on its last placement; measure anew, then go back a version, when that fails."""
    services = {}
    for model, versions in res.store.models().items():
        service = await _restore(res, power_cap_w, model, versions.current, versions.previous)
        if service is not None:
            services[model] = service
    res.pool.expect(())
    return services


async def _restore(
    res: Resources, power_cap_w: float | None, model: str, current: str | None, previous: str | None
) -> Service | None:
    first: Service | None = None
    for digest in (current, previous):
        placed = res.journal.placement(model, digest) if digest else None
        if digest is None or placed is None:
            continue
        try:
            placement = await _start(res, power_cap_w, placed.placement, placed.origin)
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


async def _start(res: Resources, power_cap_w: float | None, placement: Placement, origin: str) -> Placement:
    package = phases.installed_package(res, placement.digest)
    try:
        worker = await phases.start_checked(res, package, placement.candidate)
    except StoreError:
        raise
    except OverlaidError as error:
        # A runtime or device that was there before may be gone: what is left decides.
        log.warning("%s: %s: %s; measuring again", placement.model, error.name, error)
        placement = await phases.place(res, package, placement.budget, power_cap_w, None, lambda _: None)
        res.journal.save_placement(origin, placement)
        worker = await phases.start_checked(res, package, placement.candidate)
    await res.pool.route(placement.model, worker)
    return placement
