"""The policies that are compared, by name. All see what ``simulator.scenario.policy.Policy`` says, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.placement.demand import Demand, Node
from agent.placement.look import Look, Move
from agent.types import Candidate
from simulator.scenario.policy import NodePolicy, Policy


class Always:
    """Everything on the devices of one kind, the first model first where only one overlay can be there; what cannot go
    there is on the CPU."""

    probes = False

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.reasons: Mapping[str, str] = {}

    def look(self, look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]:
        del look
        moves, overlay = [], None
        for demand in demands:
            there = [m for m in demand.measurements if self._kind_of(node, m.candidate) == self._kind]
            fits = [m for m in there if overlay in (None, m.overlay)]
            cpu = [m for m in demand.measurements if self._kind_of(node, m.candidate) == "cpu"]
            chosen = min(fits or cpu, key=lambda m: m.p99_ms)
            overlay = overlay or chosen.overlay
            if chosen.candidate != demand.incumbent:
                moves.append(Move(demand.model, chosen.candidate, "always", f"always on the {self._kind}"))
        return moves

    def verify(self, model: str, candidate: Candidate, z: float, now: float) -> bool:
        del model, candidate, z, now
        return True

    def failed(self, model: str, candidate: Candidate, why: str) -> None:
        """Tried again at the next look."""

    @staticmethod
    def _kind_of(node: Node, candidate: Candidate) -> str:
        return next((d.kind for d in node.devices if d.id == candidate.device and not d.lost), "")


POLICIES: dict[str, Callable[[], Policy]] = {
    "ours": NodePolicy,
    "always-cpu": lambda: Always("cpu"),
    "always-gpu": lambda: Always("gpu"),
    "always-fpga": lambda: Always("fpga"),
}
