"""One look as decisions see it. Values and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.placement.adapting.look import Look, Planned, State
from agent.placement.adapting.rental import dwell_s
from agent.placement.adapting.rest import bound_w
from agent.placement.adapting.sight import Measured, measured
from agent.placement.demand import Demand, Node, Placed, Plan
from agent.placement.planning.limits import SHED
from agent.types import Measurement

MET, MISSED, OUT = range(3)


@dataclass(frozen=True, slots=True)
class Scene:
    """``seen``: the demands as they are planned for, by model; ``event``: what happened at this look, in words;
    ``anew``: it is that something else is asked of the node."""

    state: State
    look: Look
    planned: Planned
    measured: Measured
    event: str
    anew: bool
    seen: dict[str, Demand] = field(default_factory=dict)

    @classmethod
    def of(cls, state: State, planned: Planned, told: Sequence[Demand], node: Node, look: Look) -> Scene:
        seen = {demand.model: demand for demand in planned.demands}
        return cls(state, look, planned, measured(told), *_event(state, told, node), seen)

    @property
    def node(self) -> Node:
        return self.planned.node

    @property
    def time(self) -> float:
        return self.state.time

    def here(self, model: str) -> Measurement | None:
        """Of where it is, or will be when what is under way is done."""
        incumbent = self.seen[model].incumbent
        return None if incumbent is None else self.measured.get((model, incumbent))

    def all_here(self) -> dict[str, Measurement]:
        """``here`` of all models that are somewhere."""
        return {model: m for model in self.seen if (m := self.here(model)) is not None}

    def changes(self, plan: Plan) -> dict[str, Placed]:
        """By model, those that the plan would have elsewhere."""
        return {p.model: p for p in plan.placed if p.candidate != self.seen[p.model].incumbent}

    def held(self, model: str) -> int:
        """How well its budget is met where it is."""
        late = model in self.planned.late
        return max(
            MISSED if late else MET,
            rank(next((p for p in self.planned.held.placed if p.model == model), None)),
        )

    def lost_here(self, model: str) -> int:
        """How much of its budget it misses where it is, in thousandths."""
        return next((p.lost for p in self.planned.held.placed if p.model == model), SHED)

    def lost(self, m: Measurement) -> bool:
        return any(device.lost for device in self.node.devices if device.id == m.candidate.device)

    def dwelt(self, model: str) -> bool:
        """Whether it has been where it is for long enough to leave without need."""
        here = self.here(model)
        return here is not None and self.time - self.state.since[model][1] >= dwell_s(here)

    @property
    def bound_w(self) -> float | None:
        """What the node draws at the budgets' rates, mean and 1.64 sigma; None where that is not known."""
        if self.node.rest_w is None:
            return None
        held = [(m, demand.budget.rate_hz) for model, demand in self.seen.items() if (m := self.here(model))]
        return bound_w(self.node.rest_w, self.node.rest_sigma_w, held)

    @property
    def over_cap(self) -> str:
        """What says that the node's cap is broken; empty when it is not."""
        cap_w, drawn_w = self.node.power_cap_w, self.bound_w
        if cap_w is None or drawn_w is None or drawn_w <= cap_w * (1 + 1e-9):
            return ""
        return f"{drawn_w:.4g} W over the cap {cap_w:g} W"


def made_late(scene: Scene, m: Measurement, at: Callable[[str], Measurement | None]) -> dict[str, float]:
    """Answers of models that wait too long while ``m`` is loaded on a device that runs one thing at a time."""
    if any(device.parallel > 1 for device in scene.node.devices if device.id == m.candidate.device):
        return {}
    late = {}
    for model, demand in scene.seen.items():
        there = at(model)
        if there is not None and there is not m and there.candidate.device == m.candidate.device:
            spare_s = max(0.0, demand.budget.latency_p99_ms - there.p50_ms) / 1e3
            late[model] = (demand.rate_hz or 0.0) * max(0.0, m.load_s - spare_s)
    return late


def loss(scene: Scene, plan: Plan) -> float:
    """The weighted unmet load, of models that run or shall run as of others."""
    return sum(placed.lost * 4.0 ** scene.seen[placed.model].budget.priority for placed in plan.placed)


def rank(placed: Placed | None) -> int:
    """MET: its budget; MISSED: some of it; OUT: it does not run."""
    if placed is None or placed.candidate is None:
        return OUT
    return MISSED if placed.missed else MET


def _event(state: State, told: Sequence[Demand], node: Node) -> tuple[str, bool]:
    if state.told is None:
        return "start", True
    before, node_before = state.told
    asks, asked = _asks(told), _asks(before)
    if asks != asked:
        new = sorted(asks.keys() ^ asked.keys()) or sorted(m for m in asks if asks[m] != asked[m])
        what = (
            "is new"
            if new[0] not in asked
            else "is gone"
            if new[0] not in asks
            else "asks for something else"
        )
        return f"{new[0]} {what}", new[0] in asks
    if node.power_cap_w != node_before.power_cap_w:
        return f"cap {_watts(node_before.power_cap_w)} -> {_watts(node.power_cap_w)}", False
    lost = {device.id for device in node.devices if device.lost}
    lost_before = {device.id for device in node_before.devices if device.lost}
    for device in sorted(lost ^ lost_before):
        return (f"{device} is lost" if device in lost else f"{device} is back"), False
    return "", False


def _asks(demands: Sequence[Demand]) -> dict[str, object]:
    return {d.model: (d.budget, d.instances, frozenset(m.candidate for m in d.measurements)) for d in demands}


def _watts(cap_w: float | None) -> str:
    return "none" if cap_w is None else f"{cap_w:g} W"
