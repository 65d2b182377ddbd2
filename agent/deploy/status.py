"""What is shown of a model: pure, from what is in service, what is being deployed and what its worker says."""

from __future__ import annotations

from dataclasses import replace

from agent.deploy.journal import Deployment
from agent.deploy.reconcile import Wanted
from agent.deploy.service import Service
from agent.serving.events import WorkerStatus
from agent.types import Delivery, ModelStatus, Phase, State


def model_status(
    name: str,
    service: Service | None,
    latest: Deployment | None,
    progress: float | None,
    wanted: Wanted | None,
    worker: WorkerStatus | None,
    building: str = "",
    delivery: Delivery | None = None,
) -> ModelStatus | None:
    """One model; None when it is neither in service nor wanted nor being deployed.

    ``building``: what a worker of it builds now, which is worth more than the reason that holds otherwise.
    ``delivery``: of the package of ``latest``.
    """
    status = _of_service(name, service) if service else None
    if latest is not None and _shows(latest, wanted):
        status = replace(
            status or ModelStatus(name, "", "", State.QUEUED),
            version=latest.model.version,
            digest=latest.model.digest,
            state=latest.state,
            phase=None if latest.state.final else latest.phase,
            progress=progress,
            why=_waits(latest, delivery) or latest.why,
            budget=latest.model.budget,
            origin=latest.origin,
        )
    if status is not None and latest is not None and status.digest == latest.model.digest:
        status = replace(status, delivery=delivery)
    if status is not None and building:
        status = replace(status, why=building)
    if status is None or worker is None:
        return status
    return replace(
        status,
        requests=worker.requests,
        errors=worker.errors,
        p50_ms=worker.histogram.percentile_ms(0.50),
        p99_ms=worker.histogram.percentile_ms(0.99),
        restarts=worker.restarts,
        pid=worker.pid,
        ready=worker.ready,
    )


def _of_service(name: str, service: Service) -> ModelStatus:
    placement = service.placement
    return ModelStatus(
        name,
        placement.version,
        placement.digest,
        State.FAILED if service.why else State.SUCCEEDED,
        why=service.why or placement.reason,
        running_version=None if service.why or placement.shed else placement.version,
        candidate=None if placement.shed else placement.candidate,
        budget=placement.budget,
        origin=service.origin,
    )


def _waits(latest: Deployment, delivery: Delivery | None) -> str:
    return delivery.waits_for if delivery is not None and latest.phase is Phase.DOWNLOADING else ""


def _shows(latest: Deployment, wanted: Wanted | None) -> bool:
    """An open deployment, or a failed one that is still what the fleet asks for."""
    if not latest.state.final:
        return True
    return latest.state is not State.SUCCEEDED and wanted is not None and wanted.model == latest.model
