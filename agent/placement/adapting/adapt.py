"""Run-time adaptation: what the node sees each second becomes a plan, and a plan becomes moves when they pay. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from agent.placement.adapting.bars import barred, uncapped
from agent.placement.adapting.decide import decided
from agent.placement.adapting.look import Look, Move, Outcome, Planned, Seen, State
from agent.placement.adapting.scene import MET, Scene, rank
from agent.placement.adapting.sight import watched
from agent.placement.adapting.urgent import only
from agent.placement.adapting.view import as_seen
from agent.placement.demand import Demand, Node
from agent.placement.planning.plan import plan
from agent.types import Candidate, Verdict

__all__ = ["Look", "Move", "Outcome", "Seen", "State", "dropped", "failed", "step", "verify"]

PROBED_RUNS = 10  # about what a fresh worker runs before its route flips


def step(state: State, demands: Sequence[Demand], node: Node, look: Look) -> tuple[State, Outcome]:
    """One look: what is remembered of it, and what is to be done.

    ``demands``: their ``incumbent`` is where the model serves now, also while a move is under way; ``rate_hz`` is
    filled in here, as are the slowdowns of ``node``'s devices, and its rest, of which the caller's is a first guess.
    """
    given = tuple(sorted(demands, key=lambda demand: demand.model))
    state = _timed_out(watched(state, given, node, look))
    if _cap_rose(state, node):
        state = replace(state, bars=uncapped(state.bars, state.time))
    planned = _planned(state, *as_seen(state, given, node))
    state, outcome = decided(Scene.of(replace(state, planned=planned), planned, given, node, look))
    return replace(state, told=(given, node)), outcome


def verify(state: State, model: str, candidate: Candidate, z: float, now: float) -> tuple[State, bool]:
    """Whether a fresh worker is fast enough for the route to flip: its runs took ``z`` times the profiled time.

    When not, the move is off, and the candidate is barred for a time that grows. ``now``: the clock of looks.
    """
    del now  # bars count from the last look
    asked = state.asked.get(model)
    if asked is None or asked.candidate != candidate or not math.isfinite(z) or z <= 0:
        return state, True
    slowdowns = dict(state.slowdowns)
    if (slowdown := slowdowns.get(candidate.device)) is not None:
        slowdowns[candidate.device] = slowdown.observed(z, PROBED_RUNS)
    state = replace(state, slowdowns=slowdowns)
    if z <= asked.most:
        return state, True
    return failed(state, model, candidate, f"took {z:.3g} x the profiled time when it was tried", True), False


def failed(state: State, model: str, candidate: Candidate, why: str, passing: bool = False) -> State:
    """The model could not be moved to ``candidate``: it is barred for a time that grows. ``passing``: for a cause that
    may pass unseen."""
    asked = {name: each for name, each in state.asked.items() if name != model}
    regret = state.regret.without(model, candidate).counting(((model, candidate),))
    paid = model in state.asked and state.asked[model].paid
    bars = barred(state.bars, model, candidate, why, state.time, passing=passing, paid=paid)
    return replace(state, asked=asked, bars=bars, regret=regret)


def dropped(state: State, model: str) -> State:
    """A move that was asked for is not made, through no fault of its candidate: the next look decides anew."""
    return replace(state, asked={name: each for name, each in state.asked.items() if name != model})


def _timed_out(state: State) -> State:
    for model, asked in list(state.asked.items()):
        if asked.candidate is not None and state.time > asked.until:
            state = failed(state, model, asked.candidate, "did not take over in time")
    return state


def _cap_rose(state: State, node: Node) -> bool:
    before_w = state.told[1].power_cap_w if state.told else None
    return before_w is not None and (node.power_cap_w is None or node.power_cap_w > before_w)


def _planned(state: State, demands: tuple[Demand, ...], node: Node) -> Planned:
    """The plan for these, made anew when something has changed."""
    running = {demand.model for demand in demands if demand.incumbent is not None}
    broken = frozenset(model for model, tail in state.tails.items() if tail.broken and model in running)
    before = state.planned
    if before is not None and (before.demands, before.node, before.broken) == (demands, node, broken):
        return before
    held = plan([only(demand, {demand.incumbent}) for demand in demands], node)
    best, late = plan(demands, node), frozenset[str]()
    tried = [_slow_allowed(d, state) if best.of(d.model).candidate is None else d for d in demands]
    if any(one is not other for one, other in zip(tried, demands, strict=True)):
        best = plan(tried, node)
    stays = broken & {d.model for d in demands if best.of(d.model).candidate == d.incumbent}
    if stays:
        away = plan([_without_incumbent(d, state) if d.model in stays else d for d in demands], node)
        if all(rank(away.of(p.model)) <= (MET if p.model in stays else rank(p)) for p in best.placed):
            best, late = away, stays
    return Planned(demands, node, broken, best, held, late, state.time)


def _slow_allowed(demand: Demand, state: State) -> Demand:
    """Where it was too slow when it was tried it is better than nowhere."""
    slow = {
        Verdict(candidate, False, bar.why)
        for (model, candidate), bar in state.bars.items()
        if candidate and model == demand.model and bar.passing
    }
    left = tuple(verdict for verdict in demand.failed if verdict not in slow)
    return demand if len(left) == len(demand.failed) else replace(demand, failed=left)


def _without_incumbent(demand: Demand, state: State) -> Demand:
    assert demand.incumbent is not None
    out = Verdict(demand.incumbent, False, f"{state.tails[demand.model]} there")
    return replace(demand, failed=(*demand.failed, out))
