"""What a package's candidates cost on this node: every one that it could run is measured in a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.deploy import overlays, workers
from agent.deploy.resources import Resources
from agent.errors import OverlaidError, one_line
from agent.package.manifest import Manifest
from agent.package.verify import VerifiedPackage
from agent.placement import batching, plan, profile
from agent.types import Budget, Candidate, Measurement, Placement, Verdict

log = logging.getLogger("deploy")
Progress = Callable[[float], None]
Quiet = Callable[[], bool]


def candidates_of(res: Resources, manifest: Manifest) -> tuple[tuple[Candidate, ...], tuple[Verdict, ...]]:
    """What this node could run, and why not the rest."""
    variants = tuple(
        plan.VariantInfo(v.name, v.format, v.precision, v.devices, v.accuracy, v.overlay)
        for v in manifest.variants
    )
    # Every manifest that is installed is verified for it: only for packages that need an overlay.
    delivered = overlays.delivered(res) if any(v.overlay for v in variants) else ()
    return plan.candidates_for(variants, res.board, delivered)


async def measure_all(
    res: Resources,
    package: VerifiedPackage,
    budget: Budget,
    running: Placement | None,
    progress: Progress,
    *,
    again: bool = False,
    quiet: Quiet = lambda: True,
) -> tuple[list[Measurement], list[Verdict], list[OverlaidError]]:
    """Measurements of the candidates, why the others have none, and the errors that were the reason.

    ``running``: the model's placement so far, whose worker is loaded meanwhile. ``progress`` hears the share that is
    done. ``again``: what was measured before does not count. ``quiet``: False while a model that serves is late; then
    nothing is run. To be called by one at a time. Cancelling is safe.
    """
    del budget, again, quiet
    candidates, failed = candidates_of(res, package.manifest)
    measurements: list[Measurement] = []
    verdicts = list(failed)
    errors: list[OverlaidError] = []
    for done, candidate in enumerate(candidates, start=1):
        try:
            measured = await _measure(res, package, candidate)
            measurements.append(profile.beside(measured, _running(running)))
        except OverlaidError as error:
            errors.append(error)
            verdicts.append(Verdict(candidate, False, f"{error.name}: {one_line(error)}"))
        progress(done / len(candidates))
    return measurements, verdicts, errors


async def measure_batches(
    res: Resources, package: VerifiedPackage, budget: Budget, chosen: Measurement
) -> Measurement:
    """``chosen`` with what answering several requests in a run brings, where a model and its budget allow it."""
    manifest = package.manifest
    if not batching.worth_measuring(manifest.inputs, manifest.outputs, budget, chosen):
        return chosen
    try:
        worker = await workers.start_checked(res, package, chosen.candidate)
        try:
            times = await worker.batch_times(res.settings.profile_s / 2, batching.longest_s(budget))
        finally:
            await res.pool.stop(worker)
    except OverlaidError as error:  # requests are answered one by one then, which is no failure
        log.info("%s: runs that answer several requests: %s: %s", manifest.name, error.name, error)
        return chosen
    return batching.with_batches(chosen, times, budget)


def _running(placement: Placement | None) -> Measurement | None:
    verdicts = placement.verdicts if placement else ()
    return next((verdict.measurement for verdict in verdicts if verdict.chosen), None)


async def _measure(res: Resources, package: VerifiedPackage, candidate: Candidate) -> Measurement:
    seconds = res.settings.profile_s
    rest_w = await profile.idle_watts(res.meters, seconds * profile.IDLE_SHARE)
    worker = await workers.start_checked(res, package, candidate)
    try:
        accuracy = package.manifest.variant(candidate.variant).accuracy
        found = await profile.measure(candidate, accuracy, worker, res.meters, seconds, rest_w)
        return found.measurement
    finally:
        await res.pool.stop(worker)
