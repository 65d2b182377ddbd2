"""From a package's candidates to where it runs: measured, then planned with everybody else on the node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agent.deploy import demands
from agent.deploy.claims import Claim
from agent.deploy.measuring import UNMEASURED, Progress, measure_all, measure_batches
from agent.deploy.resources import Resources
from agent.errors import GoldenMismatch, NoFeasibleCandidate, OverlaidError, OverlayLoadError, one_line
from agent.package.verify import VerifiedPackage
from agent.placement.demand import Demand, Placed, Plan
from agent.placement.planning.candidates import NEEDS_OVERLAY, short
from agent.serving.unwell import UNWELL
from agent.types import Budget, Candidate, Placement

Admit = Callable[[Demand], Plan]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a package's candidates cost here. ``errors``: why some could not be measured."""

    demand: Demand
    errors: tuple[OverlaidError, ...]


async def measured(
    res: Resources,
    package: VerifiedPackage,
    budget: Budget,
    instances: int,
    running: Placement | None,
    admit: Admit,
    quiet: Callable[[], bool],
    claim: Claim,
    progress: Progress,
) -> Measured:
    """PROFILING: every candidate in a worker; of the one that is likely to be chosen, whether runs that answer several
    requests pay (not where that would make others on a GPU or an FPGA late).

    ``running``: the model's placement so far, whose worker is loaded meanwhile. Raises GoldenMismatch when no candidate
    computes what the packer promised: the package or the runtimes are broken.
    """
    found, failed, errors = await measure_all(
        res, package, budget, running, progress, quiet=quiet, claim=claim
    )
    if not found and errors and all(isinstance(error, GoldenMismatch) for error in errors):
        raise GoldenMismatch(one_line(errors[0]))
    name, incumbent = package.manifest.name, incumbent_of(running)
    newcomer = demands.demand(name, budget, found, failed, incumbent, instances)
    planned = admit(newcomer)
    likely = planned.of(name)
    if likely.measurement is not None and not likely.missed and not _beside_others(res, planned, name):
        batched = await measure_batches(res, package, budget, likely.measurement, claim)
        measurements = (batched if m is likely.measurement else m for m in newcomer.measurements)
        newcomer = replace(newcomer, measurements=tuple(measurements))
    return Measured(newcomer, tuple(errors))


def _beside_others(res: Resources, planned: Plan, name: str) -> bool:
    """Whether others run where one run follows another, on a GPU or an FPGA: long runs would make them late."""
    device = planned.of(name).candidate
    kind = next((d.kind for d in res.board.devices if device is not None and d.id == device.device), "")
    return kind != "cpu" and any(
        other.model != name and other.candidate is not None and device is not None
        and other.candidate.device == device.device
        for other in planned.placed
    )  # fmt: skip


def incumbent_of(placement: Placement | None) -> Candidate | None:
    """Where a model runs."""
    return None if placement is None or placement.shed else placement.candidate


def place(
    package: VerifiedPackage,
    measured: Measured,
    running: Placement | None,
    admit: Admit,
    pushed: Callable[[Demand, Plan], Placed | None],
    cap_w: float | None,
) -> Placement:
    """Where the model runs; NoFeasibleCandidate carries the numbers, and what is closest.

    ``pushed(newcomer, plan)``: a model of no lower priority that would be served worse than now, if there is one.

    What a device raised when it was lost or the like and nothing else is feasible: it may be when the device is back.
    """
    name = package.manifest.name
    newcomer = replace(measured.demand, incumbent=incumbent_of(running))
    plan = admit(newcomer)
    placed = plan.of(name)
    over = cap_w is not None and plan.watts_bound is not None and plan.watts_bound > cap_w
    if placed.candidate is None or placed.missed or over:
        raise _nothing_fits(placed, measured.errors)
    if worse := pushed(newcomer, plan):
        text = f"{placed.candidate} would take from {worse.model}, whose priority is no lower: {worse.reason}"
        raise NoFeasibleCandidate(text)
    return Placement(
        name,
        package.manifest.version,
        package.digest,
        newcomer.budget,
        placed.candidate,
        placed.reason,
        placed.verdicts,
        time.time(),
        newcomer.instances,
    )


def _nothing_fits(placed: Placed, errors: Iterable[OverlaidError]) -> OverlaidError:
    """An error that may heal where a device was away or an overlay is missing; NoFeasibleCandidate otherwise."""
    reason = placed.reason.replace("shed: ", "no candidate fits beside what runs; the closest is ", 1)
    candidates = [verdict.candidate for verdict in placed.verdicts]
    for verdict in placed.verdicts:
        if verdict.reason.startswith(UNMEASURED) and verdict.reason not in reason:
            untried, why = verdict.candidate, verdict.reason[len(UNMEASURED) :]
            reason += f"; {short(untried, candidates)} was not measured: {why}"
    away = next((error for error in errors if isinstance(error, UNWELL)), None)
    if away is not None:
        return type(away)(f"{away}; {reason}")
    missing = next((v.reason for v in placed.verdicts if v.reason.startswith(NEEDS_OVERLAY)), None)
    return OverlayLoadError(f"{missing}; {reason}") if missing else NoFeasibleCandidate(reason)
