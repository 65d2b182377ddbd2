"""Who decides where the models of a scenario run: the node's own code, or what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.placement.adapting import adapt
from agent.placement.adapting.look import Look, Move, State
from agent.placement.demand import Demand, Node
from agent.types import Candidate


class Policy(Protocol):
    """Decides from what a node can know: its profiles, its sensors, what it served, which devices answer. Nothing of a
    simulated board's truth reaches it.

    ``look`` is called once a second, and at once (with nothing seen) when a model comes or goes, the cap changes, or a
    device is lost or back. A demand's incumbent is where the model is served now (None: nowhere), also while it moves;
    ``node.devices`` say what is lost, their slowdown is always 1 and ``node.rest_w`` what was measured before the first
    model. Moves are carried out one after another; one that is asked for again is not begun anew.
    ``failed`` tells of a move that came to nothing because a device did not answer.
    ``probes``: whether ``verify`` hears of a fresh worker before it takes over: ``z``, its mean run time as a multiple
    of the profiled one; False keeps the model where it is. ``reasons``: by model, of the last look; may be empty.
    """

    probes: bool
    reasons: Mapping[str, str]

    def look(self, look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]: ...

    def verify(self, model: str, candidate: Candidate, z: float, now: float) -> bool: ...

    def failed(self, model: str, candidate: Candidate, why: str) -> None: ...


class NodePolicy:
    """What the daemon does: ``agent.placement.adapting.adapt``."""

    probes = True

    def __init__(self) -> None:
        self._state = State()
        self.reasons: Mapping[str, str] = {}

    def look(self, look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]:
        self._state, outcome = adapt.step(self._state, demands, node, look)
        self.reasons = {placed.model: placed.reason for placed in outcome.plan.placed}
        return outcome.moves

    def verify(self, model: str, candidate: Candidate, z: float, now: float) -> bool:
        self._state, ok = adapt.verify(self._state, model, candidate, z, now)
        return ok

    def failed(self, model: str, candidate: Candidate, why: str) -> None:
        self._state = adapt.failed(self._state, model, candidate, why)
