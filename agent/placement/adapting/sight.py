"""From what a look tells to what plans go by. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agent.placement.adapting.bars import lifted
from agent.placement.adapting.look import Look, Seen, State
from agent.placement.adapting.rates import Load
from agent.placement.adapting.rental import Regret
from agent.placement.adapting.rest import Rest, drawn_w, sensible
from agent.placement.adapting.slowdown import Slowdown
from agent.placement.adapting.tail import OVER, Tail
from agent.placement.demand import Demand, Node
from agent.types import Candidate, Measurement

LONGEST_S = 30.0  # between two looks: more is a clock that jumped, or a node that slept
SETTLED_S = 5.0  # after a move the rest may look different for what the model of costs gets wrong
METER_S = 1.0  # readings are averages, which may begin so long before

Measured = Mapping[tuple[str, Candidate], Measurement]


def measured(demands: Iterable[Demand]) -> Measured:
    return {(demand.model, m.candidate): m for demand in demands for m in demand.measurements}


def watched(state: State, demands: Sequence[Demand], node: Node, look: Look) -> State:
    """``state`` after the look; a clock that goes back tells no time, and one that jumps nothing of rates and watts."""
    passed = 0.0 if state.clock is None or not math.isfinite(look.now) else look.now - state.clock
    jumped = not 0.0 <= passed <= LONGEST_S
    time = state.time + min(max(passed, 0.0), LONGEST_S)
    clock = look.now if math.isfinite(look.now) else state.clock
    state = _settled(replace(state, clock=clock, time=time), demands)
    by = measured(demands)
    seen = _sensible_seen(look.seen, demands)
    seconds = time - state.counted if seen else 0.0
    if state.moved == time:  # what was seen is of two placements
        state, seen = replace(state, counted=time), ()
    if jumped or seconds <= 0:
        seen = ()
    state = replace(
        state, slowdowns=_slowdowns(state, demands, node, seen, by, min(max(passed, 0.0), LONGEST_S))
    )
    if seen:
        state = replace(state, counted=time)
        if not _moving(state):
            state = _metered(state, _rest(state, demands, look, seen, by, seconds))
        state = replace(state, tails=_tails(state, demands, seen, seconds))
    return replace(
        state,
        loads=_loads(state, demands, seen, jumped),
        rest=state.rest.guessed(node.rest_w, node.rest_sigma_w),
        lately=({each.model: each.requests / seconds for each in seen}, seconds) if seen else ({}, 0.0),
    )


def _settled(state: State, demands: Sequence[Demand]) -> State:
    """Moves that are done, models that are gone, bars that are long over."""
    asked, since, tails, moved = {}, {}, dict(state.tails), False
    for demand in demands:
        before = state.since.get(demand.model)
        if before is None or before[0] != demand.incumbent:
            moved = True
            tails.pop(demand.model, None)
            switched = before is not None and before[0] is not None
            before = demand.incumbent, state.time if switched else -math.inf
        since[demand.model] = before
        waits = state.asked.get(demand.model)
        if waits is not None and waits.candidate != demand.incumbent:
            asked[demand.model] = waits
    there, regret = since.keys(), state.regret
    if moved:
        regret = Regret()
        for model, candidate in state.bars:
            regret = regret if candidate is None else regret.counting(((model, candidate),))
    return replace(
        state,
        asked=asked,
        since=since,
        tails=tails,
        moved=state.time if moved else state.moved,
        missing={model: looks for model, looks in state.missing.items() if model in there},
        regret=regret,
        bars={key: bar for key, bar in state.bars.items() if key[0] in there and state.time < bar.forgotten},
    )


def _moving(state: State) -> bool:
    """Whether loading, or a second worker, draws what no model of ours explains."""
    return bool(state.asked) or state.time - state.moved < METER_S


def _sensible_seen(seen: Iterable[Seen], demands: Sequence[Demand]) -> tuple[Seen, ...]:
    there = {demand.model for demand in demands}
    return tuple(
        each
        for each in seen
        if each.model in there and min(each.requests, each.runs, each.late) >= 0 and each.run_s >= 0
    )


def _loads(state: State, demands: Sequence[Demand], seen: Sequence[Seen], jumped: bool) -> Mapping[str, Load]:
    counts = {each.model: each.requests for each in seen}
    loads = {}
    for demand in demands:
        load = state.loads.get(demand.model) or Load.promised(demand.budget.rate_hz, state.time)
        if jumped or state.moved == state.time:
            load = replace(load, time=state.time)
        loads[demand.model] = (
            load.counted(counts[demand.model], state.time) if demand.model in counts else load
        )
    return loads


def _slowdowns(
    state: State, demands: Sequence[Demand], node: Node, seen: Sequence[Seen], by: Measured, seconds: float
) -> Mapping[str, Slowdown]:
    """Of each device from all runs on it; of one that nothing is placed on it relaxes."""
    expected: dict[str, tuple[float, float, int]] = {}
    for each in seen:
        m = by.get((each.model, each.candidate))
        if m is not None and each.runs and m.mean_ms > 0:
            s, took, runs = expected.get(each.candidate.device, (0.0, 0.0, 0))
            one_s = m.mean_ms / 1e3 * _longer(m, each.requests / each.runs)
            expected[each.candidate.device] = s + each.runs * one_s, took + each.run_s, runs + each.runs
    used = {demand.incumbent.device for demand in demands if demand.incumbent}
    slowdowns = {}
    for device in node.devices:
        slowdown = state.slowdowns.get(device.id, Slowdown())
        if device.id in expected:
            s, took, runs = expected[device.id]
            slowdown = slowdown.observed(took / s, runs)
        elif device.id not in used:
            slowdown = slowdown.relaxed(seconds)
        slowdowns[device.id] = slowdown
    return slowdowns


def _longer(m: Measurement, requests: float) -> float:
    """How much longer a run for several requests takes than one for one, as measured for the largest batch."""
    if m.max_batch < 2 or not m.batch_gain or requests <= 1:
        return 1.0
    most = m.max_batch / m.batch_gain
    return 1.0 + (min(requests, m.max_batch) - 1.0) * max(most - 1.0, 0.0) / (m.max_batch - 1.0)


def _metered(state: State, rest: Rest) -> State:
    """With a new rest. When it fell, so may have what slowed a device down: another program that ended."""
    if not rest.fell or state.time - state.moved < SETTLED_S:
        return replace(state, rest=rest)
    used = {candidate.device for candidate, _ in state.since.values() if candidate}
    slowdowns = {d: each if d in used else Slowdown() for d, each in state.slowdowns.items()}
    return replace(state, rest=rest, slowdowns=slowdowns, bars=lifted(state.bars, state.time))


def _rest(
    state: State, demands: Sequence[Demand], look: Look, seen: Sequence[Seen], by: Measured, seconds: float
) -> Rest:
    now = {d.model: m for d in demands if d.incumbent and (m := by.get((d.model, d.incumbent)))}
    ran = {each.model: _runs(by.get((each.model, each.candidate)), each) / seconds for each in seen}
    served_w = drawn_w((m, ran.get(model, 0.0)) for model, m in now.items())
    if look.power_w is None or not sensible(look.power_w):
        return state.rest.blind(seconds)
    return state.rest.metered(look.power_w, served_w)


def _tails(
    state: State, demands: Sequence[Demand], seen: Sequence[Seen], seconds: float
) -> Mapping[str, Tail]:
    """Of models that are asked for no more than was promised; anew after a move."""
    budgets = {demand.model: demand.budget for demand in demands}
    tails = {model: tail for model, tail in state.tails.items() if model in budgets}
    for each in seen:
        settled = state.time - max(state.since[each.model][1], state.moved) >= SETTLED_S
        if not settled or each.model in state.asked:
            tails.pop(each.model, None)
        elif each.requests <= OVER * budgets[each.model].rate_hz * seconds + 1:
            tails[each.model] = tails.get(each.model, Tail()).counted(each.requests, each.late, seconds)
    return tails


def _runs(m: Measurement | None, seen: Seen) -> float:
    """Runs for one request that would draw as much."""
    return seen.runs * _longer(m, seen.requests / seen.runs) if m and seen.runs else 0.0
