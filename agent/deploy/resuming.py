"""What becomes of a deployment that the daemon's end interrupted: decided once, at the start."""

from __future__ import annotations

from dataclasses import dataclass

from agent.deploy.journal import Deployment
from agent.errors import OverlaidError, Superseded, from_name
from agent.types import Phase, Placement


@dataclass(frozen=True, slots=True)
class Resumption:
    """It goes on from its first phase, which is quick where nothing is missing; ``why`` says what happened."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """It is over: ``error``, or None after a success; ``why`` is the placement's reason then."""

    error: OverlaidError | None
    why: str = ""


def decide(deployment: Deployment, newest: Deployment, in_service: Placement | None) -> Resumption | Ended:
    """``newest``: of the model; ``in_service``: its placement, that the start has brought back.

    What was committed has succeeded; what was being rolled back has failed for the reason why, and the start has
    finished the way back; what a newer one followed is superseded; everything else goes on.
    """
    if deployment.id != newest.id:
        return Ended(Superseded("a newer deployment followed while its end could not be written down"))
    phase = deployment.phase
    if phase is Phase.ROLLING_BACK and deployment.why:
        name, _, text = deployment.why.partition(": ")
        return Ended(from_name(name, text))
    if in_service is not None and phase in (Phase.SOAKING, Phase.ACTIVATING) and _is(deployment, in_service):
        return Ended(None, in_service.reason)
    where = "before its first phase" if phase is None else f"in {phase.value}"
    return Resumption(f"the agent was stopped {where}: it goes on")


def _is(deployment: Deployment, placement: Placement) -> bool:
    model = deployment.model
    wanted = model.digest, model.budget, model.instances
    return (placement.digest, placement.budget, placement.instances) == wanted
