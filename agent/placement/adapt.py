"""Run-time adaptation: what the node sees each second becomes a plan, and a plan becomes moves when they pay. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from agent.placement.bars import barred
from agent.placement.decide import decided
from agent.placement.demand import Demand, Node
from agent.placement.look import Look, Move, Outcome, Planned, Seen, State
from agent.placement.plan import plan
from agent.placement.sight import as_seen, watched
from agent.types import Candidate

__all__ = ["Look", "Move", "Outcome", "Seen", "State", "dropped", "failed", "step", "verify"]

PROBED_RUNS = 10  # about what a fresh worker runs before its route flips


def step(state: State, demands: Sequence[Demand], node: Node, look: Look) -> tuple[State, Outcome]:
    """One look: what is remembered of it, and what is to be done.

    ``demands``: their ``incumbent`` is where the model serves now, also while a move is under way; ``rate_hz`` is
    filled in here, as are the slowdowns of ``node``'s devices, and its rest, of which the caller's is a first guess.
    """
    given = tuple(sorted(demands, key=lambda demand: demand.model))
    state = _timed_out(watched(state, given, node, look))
    seen_demands, seen_node = as_seen(state, given, node)
    planned = state.planned
    if planned is None or (planned.demands, planned.node) != (seen_demands, seen_node):
        held = [_pinned(demand) for demand in seen_demands]
        planned = Planned(seen_demands, seen_node, plan(seen_demands, seen_node), plan(held, seen_node))
    state, outcome = decided(replace(state, planned=planned), given, node, look)
    return replace(state, told=(given, node)), outcome


def verify(state: State, model: str, candidate: Candidate, z: float, now: float) -> tuple[State, bool]:
    """Whether a fresh worker is fast enough for the route to flip: its runs took ``z`` times the profiled time.

    When not, the move is off, and the candidate is barred for a time that doubles. ``now``: the clock of looks.
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
    return failed(state, model, candidate, f"took {z:.3g} x the profiled time when it was tried"), False


def failed(state: State, model: str, candidate: Candidate, why: str) -> State:
    """The model could not be moved to ``candidate``: it is barred for a time that doubles."""
    asked = {name: each for name, each in state.asked.items() if name != model}
    regret = state.regret.without(model, candidate).counting(((model, candidate),))
    bars = barred(state.bars, model, candidate, why, state.time)
    return replace(state, asked=asked, bars=bars, regret=regret)


def dropped(state: State, model: str) -> State:
    """A move that was asked for is not made, through no fault of its candidate: the next look decides anew."""
    return replace(state, asked={name: each for name, each in state.asked.items() if name != model})


def _timed_out(state: State) -> State:
    for model, asked in list(state.asked.items()):
        if asked.candidate is not None and state.time > asked.until:
            state = failed(state, model, asked.candidate, "did not take over in time")
    return state


def _pinned(demand: Demand) -> Demand:
    return replace(
        demand, measurements=tuple(m for m in demand.measurements if m.candidate == demand.incumbent)
    )
