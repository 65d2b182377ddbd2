"""What of a plan cannot wait until it has paid for itself. Pure.

At once: a model whose device is lost, one that is shed while there is room, a node over its cap, a budget that what has
just happened lets be met. After two looks: a budget that is missed here and met elsewhere.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from agent.placement.adapting.scene import MET, OUT, Scene, loss, made_late, rank
from agent.placement.demand import Demand, Placed, Plan
from agent.placement.planning.plan import plan
from agent.placement.planning.ways import joules_of
from agent.types import Candidate, Measurement

PATIENCE = 2  # looks in a row at which a budget is missed: one may be a hiccup,
HARM = 0.1  # but not with so many of its answers late
BETTER = 0.9  # of what it misses here: elsewhere it must be no more for a model that is late in both places to move
QUICK_S = 1.0  # a load that takes longer is bridged while the cap is broken


def missing(scene: Scene, changes: Mapping[str, Placed]) -> dict[str, int]:
    """Looks in a row at which a model would be served better elsewhere; only those that show runs count."""
    ran = {seen.model for seen in scene.look.seen if seen.runs or seen.late}
    looks = {}
    for model, placed in changes.items():
        if scene.held(model) and rank(placed) <= scene.held(model):
            before = scene.state.missing.get(model, 0)
            looks[model] = before + 1 if model in ran or not before else before
    return looks


def urgent(scene: Scene, placed: Placed) -> str:
    """Why the model must move at once; empty when it need not."""
    model, here = placed.model, scene.here(placed.model)
    if here is None:
        return (scene.event or "there is room again") if _may_return(scene, model) else ""
    if scene.lost(here):
        return f"{here.candidate.device} is lost"
    if scene.over_cap:
        return scene.event or scene.over_cap
    then, now = rank(placed), scene.held(model)
    if scene.event and (then < now or (then == now and _by_time(here, placed.measurement))):
        return scene.event
    if then > now or now == MET:
        return ""
    if scene.state.missing.get(model, 0) < PATIENCE and not _harmed(scene, model):
        return ""
    if then == now and not placed.lost <= BETTER * scene.lost_here(model):
        return ""
    return _complaint(scene, model, here)


def _by_time(here: Measurement, there: Measurement | None) -> bool:
    """Whether no energy decides between the two."""
    return joules_of(here) is None or (there is not None and joules_of(there) is None)


def _may_return(scene: Scene, model: str) -> bool:
    """A model that was shed comes back when something happens, or when it has been out for a while."""
    bar = scene.state.bars.get((model, None))
    return bool(scene.event) or bar is None or scene.time >= bar.until


def _harmed(scene: Scene, model: str) -> bool:
    return any(
        seen.late >= 2 and seen.late >= HARM * seen.requests
        for seen in scene.look.seen
        if seen.model == model
    )


def _complaint(scene: Scene, model: str, here: Measurement) -> str:
    device = next((d for d in scene.node.devices if d.id == here.candidate.device), None)
    if model in scene.planned.late:
        return str(scene.state.tails[model])
    if device is not None and device.slowdown > 1.05:
        return f"{device.id} takes {device.slowdown:.2g} x the time"
    return "its budget is missed"


# -- no more than must be -----------------------------------------------------------------------------------------


def least(scene: Scene, must: Container[str]) -> Plan:
    """The plan, without what only saves energy when all are served as well without it."""
    best = scene.planned.plan
    more = {model: placed.measurement for model, placed in scene.changes(best).items() if model not in must}
    if more and not (scene.anew and _harmless(scene, best, more)):
        pinned = [
            demand if model in must or demand.incumbent is None else only(demand, {demand.incumbent})
            for model, demand in scene.seen.items()
        ]
        less = plan(pinned, scene.node)
        if loss(scene, less) <= loss(scene, best):
            best = less
    return _bridged(scene, best) if scene.over_cap else best


def _harmless(scene: Scene, best: Plan, more: Mapping[str, Measurement | None]) -> bool:
    """Whether these can be loaded without making others late."""
    ends = {placed.model: placed.measurement for placed in best.placed}
    return all(m is not None and not any(made_late(scene, m, ends.get).values()) for m in more.values())


def _bridged(scene: Scene, best: Plan) -> Plan:
    """``best``, or what is loaded quickly and keeps the cap until the rest is loaded."""
    slow = {
        model
        for model, placed in scene.changes(best).items()
        if placed.measurement is not None and placed.measurement.load_s > QUICK_S and scene.here(model)
    }
    if not slow:
        return best
    quick = [
        only(demand, {m.candidate for m in demand.measurements if m.load_s <= QUICK_S})
        if model in slow
        else demand
        for model, demand in scene.seen.items()
    ]
    bridge = plan(quick, scene.node)
    return bridge if all(rank(bridge.of(p.model)) < OUT or rank(p) == OUT for p in best.placed) else best


def only(demand: Demand, candidates: Container[Candidate | None]) -> Demand:
    """The demand with no other way to run than these."""
    return replace(demand, measurements=tuple(m for m in demand.measurements if m.candidate in candidates))
