"""Which of a plan's changes are made now, and in which order. Pure.

At once: what a model lacks (its device is lost, it is shed and there is room), what breaks the node's cap, what the
operator changed. After two looks: a budget that is missed elsewhere than here. When its rent is paid: less energy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.placement.bars import barred
from agent.placement.demand import Demand, Node, Placed, Plan
from agent.placement.look import Asked, Look, Move, Outcome, Planned, State
from agent.placement.order import Step, in_turn
from agent.placement.plan import plan
from agent.placement.rental import Change, dwell_s, price_j
from agent.placement.rest import drawn_w, spread_w
from agent.placement.sight import Measured, measured
from agent.placement.ways import SIGMAS
from agent.types import Candidate, Measurement

PATIENCE = 2  # looks in a row at which a budget is missed: one may be a hiccup
HARM = 0.1  # of a look's answers late: then it is none
QUICK_S = 1.0  # a load that takes longer is bridged while the cap is broken
MOST_USED = 0.7  # of a device, see limits
ASKED_S = 30.0  # a move that takes longer has failed,
ASKED_LOADS = 10.0  # or so many times its load


@dataclass(frozen=True, slots=True)
class Scene:
    """One look: ``event``: what happened at it, in words; ``anew``: that is what is asked of the node."""

    state: State
    look: Look
    told: Mapping[str, Demand]  # by model, as the caller tells
    seen: Mapping[str, Demand]  # by model, as it is planned for
    node: Node
    planned: Planned
    measured: Measured
    event: str
    anew: bool

    @property
    def time(self) -> float:
        return self.state.time

    def here(self, model: str) -> Measurement | None:
        """Of where it is, or will be when what is under way is done."""
        incumbent = self.seen[model].incumbent
        return None if incumbent is None else self.measured.get((model, incumbent))

    def changes(self, plan: Plan) -> dict[str, Placed]:
        """By model, those that the plan would have elsewhere."""
        return {p.model: p for p in plan.placed if p.candidate != self.seen[p.model].incumbent}

    def bound_w(self, at: Callable[[str], Measurement | None]) -> float | None:
        """What the node would draw, mean and 1.64 sigma; None where that is not known."""
        if self.node.rest_w is None:
            return None
        held = [(m, self.seen[model].budget.rate_hz) for model in self.seen if (m := at(model))]
        spread = self.node.rest_sigma_w + spread_w(held)
        return self.node.rest_w + SIGMAS * spread + drawn_w(held)

    @property
    def over_cap(self) -> str:
        """What says that the node's cap is broken; empty when it is not."""
        cap_w, bound_w = self.node.power_cap_w, self.bound_w(self.here)
        if cap_w is None or bound_w is None or bound_w <= cap_w * (1 + 1e-9):
            return ""
        return f"{bound_w:.4g} W over the cap {cap_w:g} W"


def decided(state: State, told: Sequence[Demand], node: Node, look: Look) -> tuple[State, Outcome]:
    """What is done at this look about ``state.planned``."""
    planned = state.planned
    assert planned is not None
    event, anew = _event(state, told, node)
    scene = Scene(
        state,
        look,
        {demand.model: demand for demand in told},
        {demand.model: demand for demand in planned.demands},
        planned.node,
        planned,
        measured(told),
        event,
        anew,
    )
    changes = scene.changes(planned.plan)
    state = replace(state, missing=_missing(scene, changes))
    scene = replace(scene, state=state)
    urgent = {model: why for model, placed in changes.items() if (why := _urgent(scene, placed))}
    waits: dict[str, str] = {}
    if urgent:
        chosen = _least(scene, urgent)
        state, moves = _asked(scene, chosen, urgent)
    else:
        state, moves, waits = _rented(scene, changes)
    return state, Outcome(planned.plan, moves, planned.node, planned.demands, tuple(sorted(waits.items())))


# -- what happened ------------------------------------------------------------------------------------------------


def _event(state: State, told: Sequence[Demand], node: Node) -> tuple[str, bool]:
    if state.told is None:
        return "start", True
    before, node_before = state.told
    asks, asked = _asks(told), _asks(before)
    if asks != asked:
        new = sorted(asks.keys() ^ asked.keys()) or sorted(m for m in asks if asks[m] != asked[m])
        what = "is new" if new[0] not in asked else "is gone" if new[0] not in asks else "has another budget"
        return f"{new[0]} {what}", True
    if node.power_cap_w != node_before.power_cap_w:
        return f"cap {_watts(node_before.power_cap_w)} -> {_watts(node.power_cap_w)}", False
    lost = {device.id: device.lost for device in node.devices if device.lost}
    lost_before = {device.id for device in node_before.devices if device.lost}
    for device in sorted(lost.keys() ^ lost_before):
        return (f"{device} is lost" if device in lost else f"{device} is back"), False
    return "", False


def _asks(demands: Sequence[Demand]) -> dict[str, object]:
    return {d.model: (d.budget, d.instances, frozenset(m.candidate for m in d.measurements)) for d in demands}


def _watts(cap_w: float | None) -> str:
    return "none" if cap_w is None else f"{cap_w:g} W"


# -- what cannot wait ---------------------------------------------------------------------------------------------


def _rank(placed: Placed | None) -> int:
    """0: the budget is met; 1: some of it is missed; 2: it does not run."""
    if placed is None or placed.candidate is None:
        return 2
    return 1 if placed.missed else 0


def _held(scene: Scene, model: str) -> int:
    return _rank(next((p for p in scene.planned.held.placed if p.model == model), None))


def _missing(scene: Scene, changes: Mapping[str, Placed]) -> dict[str, int]:
    """Looks in a row at which a model would be served better elsewhere; only those that show runs count."""
    ran = {seen.model for seen in scene.look.seen if seen.runs or seen.late}
    missing = {}
    for model, placed in changes.items():
        if _rank(placed) <= _held(scene, model) and _held(scene, model):
            looks = scene.state.missing.get(model, 0)
            missing[model] = looks + 1 if model in ran or not looks else looks
    return missing


def _urgent(scene: Scene, placed: Placed) -> str:
    """Why the model must move at once; empty when it need not."""
    model, demand = placed.model, scene.seen[placed.model]
    then, now = _rank(placed), _held(scene, model)
    if scene.anew:
        return scene.event
    here = scene.here(model)
    if demand.incumbent is None or here is None:
        return (scene.event or "there is room again") if _may_return(scene, model) else ""
    if lost := next((d.id for d in scene.node.devices if d.lost and d.id == here.candidate.device), ""):
        return f"{lost} is lost"
    if scene.over_cap:
        return scene.event or scene.over_cap
    if scene.event and (then < now or (then == now and _unknown(here, placed))):
        return scene.event
    if then > now or not now:
        return ""
    patient = scene.state.missing.get(model, 0) < PATIENCE and not _harmed(scene, model)
    if patient or (then == now and not _dwelt(scene, model, here)):
        return ""
    slow = next((d.slowdown for d in scene.node.devices if d.id == here.candidate.device), 1.0)
    return f"{here.candidate.device} takes {slow:.2g} x the time" if slow > 1.05 else "budget missed"


def _unknown(here: Measurement, placed: Placed) -> bool:
    """Whether no energy decides between the two."""
    there = placed.measurement
    return here.joules is None or (there is not None and there.joules is None)


def _may_return(scene: Scene, model: str) -> bool:
    """A model that was shed comes back at an event, or when it has been out for a while."""
    bar = scene.state.bars.get((model, None))
    return bool(scene.event) or bar is None or scene.time >= bar.until


def _harmed(scene: Scene, model: str) -> bool:
    seen = next((seen for seen in scene.look.seen if seen.model == model), None)
    return seen is not None and seen.late >= 2 and seen.late >= HARM * seen.requests


def _dwelt(scene: Scene, model: str, here: Measurement) -> bool:
    since = scene.state.since.get(model, (None, 0.0))[1]
    return scene.time - since >= dwell_s(here)


def _least(scene: Scene, urgent: Mapping[str, str]) -> Plan:
    """The plan, without what only saves energy when those that must move are served as well without it."""
    best = scene.planned.plan
    if scene.anew:
        return best
    if urgent.keys() != scene.changes(best).keys():
        pinned = [
            demand if model in urgent or demand.incumbent is None else _only(demand, (demand.incumbent,))
            for model, demand in scene.seen.items()
        ]
        less = plan(pinned, scene.node)
        if all(_rank(less.of(p.model)) <= _rank(p) for p in best.placed):
            best = less
    return _bridged(scene, best) if scene.over_cap else best


def _bridged(scene: Scene, best: Plan) -> Plan:
    """``best``, or what is loaded quickly and keeps the cap until the rest is loaded."""
    slow = {
        model
        for model, placed in scene.changes(best).items()
        if placed.measurement is not None and placed.measurement.load_s > QUICK_S
    }
    if not slow:
        return best
    quick = [
        _only(demand, {m.candidate for m in demand.measurements if m.load_s <= QUICK_S})
        if model in slow and demand.incumbent is not None
        else demand
        for model, demand in scene.seen.items()
    ]
    bridge = plan(quick, scene.node)
    return bridge if all(_rank(bridge.of(p.model)) < 2 or _rank(p) == 2 for p in best.placed) else best


def _only(demand: Demand, candidates: Sequence[Candidate] | set[Candidate]) -> Demand:
    return replace(demand, measurements=tuple(m for m in demand.measurements if m.candidate in candidates))


# -- what waits until its rent is paid ----------------------------------------------------------------------------


def _rented(scene: Scene, changes: Mapping[str, Placed]) -> tuple[State, tuple[Move, ...], dict[str, str]]:
    waits: dict[str, str] = {}
    saving = {
        model: placed.measurement
        for model, placed in changes.items()
        if placed.measurement is not None and scene.here(model) is not None
        and _rank(placed) <= _held(scene, model)
    }  # fmt: skip
    known = all(m.joules is not None for m in saving.values()) and all(
        here is not None and here.joules is not None for here in map(scene.here, saving)
    )
    if not saving or saving.keys() != changes.keys() or not known or scene.state.asked:
        return _paying(scene, None), (), waits
    change: Change = tuple(sorted((model, m.candidate) for model, m in saving.items()))
    state = _paying(scene, change)
    rent, price = state.regret.of(change), price_j(list(saving.values())) * _probes(state, change)
    scene = replace(scene, state=state)
    dwelt = all((here := scene.here(model)) is not None and _dwelt(scene, model, here) for model in saving)
    if rent.pays(price) and dwelt:
        why = {
            model: f"energy: {rent.joules:.3g} J paid for staying, {price:.3g} J for moving"
            for model in saving
        }
        state, moves = _asked(scene, scene.planned.plan, why)
        return state, moves, waits
    for model, m in saving.items():
        waits[model] = (
            f"{m.candidate} would save energy: {rent.joules:.3g} J of {price:.3g} J that moving costs"
        )
    return state, (), waits


def _paying(scene: Scene, change: Change | None) -> State:
    """With the rent of this look, also against ``change``."""
    regret = scene.state.regret if change is None else scene.state.regret.counting(change)
    now = {model: m for model in scene.seen if (m := scene.here(model))}
    return replace(scene.state, regret=regret.paid(now, scene.measured, *scene.state.lately))


def _probes(state: State, change: Change) -> int:
    """By how much more rent must be paid before what failed is tried again.

    Probes each of which costs p, made whenever 2 k p of rent has come together since the k-th, cost about as much in
    all as the rent that is paid after the cause has passed, whenever that is.
    """
    tries = [bar.tries for key in change if (bar := state.bars.get(key)) is not None]
    return max(1, *(2 * each for each in tries)) if tries else 1


# -- asking -------------------------------------------------------------------------------------------------------


def _asked(scene: Scene, best: Plan, why: Mapping[str, str]) -> tuple[State, tuple[Move, ...]]:
    """The moves to ``best``, remembered."""
    first = next(iter(why.values()))
    asked, bars, steps = dict(scene.state.asked), scene.state.bars, []
    for model, placed in scene.changes(best).items():
        here, there = scene.here(model), placed.measurement
        trigger = why.get(model, f"makes room: {first}")
        rate_hz = scene.seen[model].budget.rate_hz
        steps.append(Step(Move(model, placed.candidate, trigger, placed.reason), here, there, rate_hz))
        until = scene.time + max(ASKED_S, ASKED_LOADS * (there.load_s if there else 0.0))
        most = (
            math.inf if placed.missed else _most(scene, model, here, there)
        )  # it makes room, and may be late
        asked[model] = Asked(placed.candidate, until, most)
        if here is not None and not scene.event and _failed_here(scene, model, here):
            left = here.candidate if placed.candidate else None
            bars = barred(bars, model, left, f"left: {trigger}", scene.time)
    return replace(scene.state, asked=asked, bars=bars), in_turn(steps)


def _failed_here(scene: Scene, model: str, here: Measurement) -> bool:
    """Whether it leaves because of what it finds here, and would find again."""
    lost = any(device.lost for device in scene.node.devices if device.id == here.candidate.device)
    return not lost and bool(_held(scene, model) or scene.over_cap)


def _most(scene: Scene, model: str, here: Measurement | None, there: Measurement | None) -> float:
    """The slowdown up to which the budget is met there, or missed by less than here."""
    if here is None or there is None:
        return math.inf
    slow = {device.id: device.slowdown for device in scene.node.devices}
    lost = any(device.lost for device in scene.node.devices if device.id == here.candidate.device)
    if lost or scene.over_cap:
        return math.inf
    budget = scene.seen[model].budget
    meets = budget.latency_p99_ms / there.p99_ms
    if budget.rate_hz:
        meets = min(meets, MOST_USED / (budget.rate_hz * there.mean_ms / 1e3))
    as_late = slow.get(here.candidate.device, 1.0) * here.p99_ms / there.p99_ms
    return max(meets, as_late) if _held(scene, model) else meets
