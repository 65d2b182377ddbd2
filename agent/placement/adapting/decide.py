"""Which of a plan's changes are made now. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from agent.placement.adapting.bars import barred
from agent.placement.adapting.look import Asked, Move, Outcome, State
from agent.placement.adapting.order import Step, in_turn
from agent.placement.adapting.rental import Change, alternatives, load_j, probe_j, saved_w
from agent.placement.adapting.scene import MET, MISSED, Scene, made_late, rank
from agent.placement.adapting.tail import MEMORY_S
from agent.placement.adapting.urgent import QUICK_S, least, missing, urgent
from agent.placement.demand import Placed, Plan
from agent.placement.planning.limits import MAX_UTILISATION
from agent.placement.planning.ways import held_w, joules_of
from agent.types import Measurement

ASKED_S = 30.0  # a move that takes longer has failed,
ASKED_LOADS = 10.0  # or so many times its load
LATE_COST = 20.0  # answers' energy that a late one counts for: 1 % of them made late is a fifth of all energy
LATE_S = 20 * MEMORY_S  # for so long a model does not go back to where its answers were late


def decided(scene: Scene) -> tuple[State, Outcome]:
    """What is done at this look."""
    planned = scene.planned
    changes = scene.changes(planned.plan)
    scene = replace(scene, state=replace(scene.state, missing=missing(scene, changes)))
    must = {model: why for model, placed in changes.items() if (why := urgent(scene, placed))}
    moves: tuple[Move, ...] = ()
    waits: dict[str, str] = {}
    if must:
        state, moves = _asked(scene, least(scene, must), must)
    else:
        state, moves, waits = _rented(scene, changes)
    return state, Outcome(planned.plan, moves, planned.node, planned.demands, tuple(sorted(waits.items())))


# -- what waits until its rent is paid ----------------------------------------------------------------------------


def _rented(scene: Scene, changes: Mapping[str, Placed]) -> tuple[State, tuple[Move, ...], dict[str, str]]:
    saving = {
        model: placed.measurement
        for model, placed in changes.items()
        if placed.measurement is not None and scene.here(model) and rank(placed) <= scene.held(model)
    }
    if not saving or saving.keys() != changes.keys() or scene.state.asked or not _known(scene, saving):
        return _doubting(_paying(scene, None), scene), (), {}
    change: Change = tuple(sorted((model, m.candidate) for model, m in saving.items()))
    scene = replace(scene, state=_paying(scene, change))
    rent, price = scene.state.regret.of(change), _price_j(scene, saving)
    told = f"{rent.joules:.3g} J paid for staying, {price:.3g} J for moving"
    over = _load_over_cap(scene, saving)
    if not over and rent.pays(price) and all(map(scene.dwelt, saving)):
        state, moves = _asked(scene, scene.planned.plan, {model: f"energy: {told}" for model in saving})
        return state, moves, {}
    return (
        scene.state,
        (),
        {model: f"{m.candidate} would take less energy; {over or told}" for model, m in saving.items()},
    )


def _known(scene: Scene, saving: Mapping[str, Measurement]) -> bool:
    return all(
        joules_of(m) is not None and (here := scene.here(model)) is not None and joules_of(here) is not None
        for model, m in saving.items()
    )


def _doubting(state: State, scene: Scene) -> State:
    """Where staying has cost as much as a move that no plan wants, plans may go by an old rate."""
    loads, now = dict(state.loads), scene.all_here()
    planned_hz = {model: demand.rate_hz or 0.0 for model, demand in scene.seen.items()}
    for change, rent in state.regret.rents.items():
        for model, candidate in change if len(change) == 1 else ():
            m = scene.measured.get((model, candidate))
            if m is not None and rent.pays(load_j(m)) and saved_w(now, {model: m}, planned_hz) <= 0:
                loads[model] = loads[model].doubted
    return replace(state, loads=loads)


def _paying(scene: Scene, change: Change | None) -> State:
    """With the rent of this look, also against ``change``."""
    regret = scene.state.regret
    now = scene.all_here()
    for each in alternatives(scene.measured, now) if not regret.rents else ():
        regret = regret.counting(each)
    regret = regret if change is None else regret.counting(change)
    return replace(scene.state, regret=regret.paid(now, scene.measured, *scene.state.lately))


def _price_j(scene: Scene, saving: Mapping[str, Measurement]) -> float:
    """What these moves cost: loading, holding two workers meanwhile, and answers of others that it makes late.

    Of one that failed before as often again: probes each of which costs p, made whenever k p of rent has come together
    since the k-th, cost about as much in all as the rent that is paid after the cause has passed, whenever that is.
    """
    held = {m.candidate.device for m in scene.all_here().values()}
    joules = 0.0
    for model, m in saving.items():
        joules += load_j(m) + _late_j(scene, m)
        joules += 0.0 if m.candidate.device in held else m.load_s * held_w(m)
        bar = scene.state.bars.get((model, m.candidate))
        joules += bar.tries * (load_j(m) + probe_j(m)) if bar else 0.0
    return joules


def _late_j(scene: Scene, m: Measurement) -> float:
    """What answers count for that loading it makes late."""
    return math.fsum(
        late * LATE_COST * (joules_of(here) or 0.0)
        for model, late in made_late(scene, m, scene.here).items()
        if (here := scene.here(model)) is not None
    )


def _load_over_cap(scene: Scene, saving: Mapping[str, Measurement]) -> str:
    """A load that breaks the cap for long is no way to save energy."""
    cap_w, drawn_w = scene.node.power_cap_w, scene.bound_w
    for m in saving.values():
        load_w = (m.load_j or 0.0) / m.load_s if m.load_s > QUICK_S else 0.0
        if cap_w is not None and drawn_w is not None and load_w and drawn_w + load_w > cap_w:
            return f"loading it would draw {drawn_w + load_w:.3g} W, over the cap {cap_w:g} W"
    return ""


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
        makes_room = bool(placed.missed) and scene.held(model) != MISSED  # and may be late
        most = math.inf if makes_room else _most(scene, model, here, there)
        paid = scene.held(model) == MET and not scene.over_cap
        asked[model] = Asked(placed.candidate, until, most, paid)
        if here is not None and not scene.event and not scene.lost(here):
            left = here.candidate if placed.candidate else None
            if model in scene.planned.late:
                bars = barred(bars, model, left, f"left: {trigger}", scene.time, LATE_S)
            elif scene.over_cap or scene.held(model):
                cap = bool(scene.over_cap)
                bars = barred(bars, model, left, f"left: {trigger}", scene.time, passing=not cap, cap=cap)
    return replace(scene.state, asked=asked, bars=bars), in_turn(steps)


def _most(scene: Scene, model: str, here: Measurement | None, there: Measurement | None) -> float:
    """The slowdown up to which the budget is met there, or missed by less than here."""
    if here is None or there is None or scene.lost(here) or scene.over_cap:
        return math.inf
    budget, devices = scene.seen[model].budget, {device.id: device for device in scene.node.devices}
    meets = budget.latency_p99_ms / there.p99_ms if there.p99_ms > 0 else math.inf
    used, kind = budget.rate_hz * there.mean_ms / 1e3, devices[there.candidate.device].kind
    meets = min(meets, MAX_UTILISATION[kind] / used) if used > 0 else meets
    if not scene.held(model) or there.p99_ms <= 0:
        return meets
    return max(meets, devices[here.candidate.device].slowdown * here.p99_ms / there.p99_ms)
