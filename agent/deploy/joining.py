"""Whether a newcomer may join the models of a node. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.placement.demand import Demand, Node, Placed, Plan
from agent.placement.planning import plan


def pushed(demands: Sequence[Demand], node: Node, newcomer: Demand, planned: Plan) -> Placed | None:
    """A model of no lower priority that would be served worse than now, if there is one. ``demands``: as they are now;
    ``planned``: with the newcomer."""
    now = plan.plan(demands, node)
    for demand in demands:
        if demand.model != newcomer.model and demand.budget.priority >= newcomer.budget.priority:
            then = planned.of(demand.model)
            if _rank(then) > _rank(now.of(demand.model)):
                return then
    return None


def _rank(placed: Placed) -> int:
    """0: within its budget; 1: not quite; 2: it does not run."""
    return 2 if placed.candidate is None else int(bool(placed.missed))


def in_the_way(demands: Sequence[Demand], node: Node, newcomer: str) -> str:
    """Why the newcomer, whose incumbent is where it shall run, cannot run there while the others stay where they are;
    empty when it can."""
    pinned = [
        replace(d, measurements=tuple(m for m in d.measurements if m.candidate == d.incumbent))
        for d in demands
        if d.incumbent is not None
    ]
    for placed in plan.plan(pinned, node).placed:
        if placed.model == newcomer and placed.missed:
            return placed.missed
        if placed.candidate is None and placed.verdicts:
            return f"{placed.model}: {placed.reason}"
    return ""
