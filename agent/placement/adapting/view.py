"""What plans go by: what was seen, in steps, so that nothing is planned anew for noise. Pure."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import replace

from agent.placement.adapting.look import State
from agent.placement.adapting.rest import bound_w
from agent.placement.adapting.sight import measured
from agent.placement.demand import Demand, Node
from agent.placement.planning.ways import SIGMAS, joules_of
from agent.types import Verdict

SLOWDOWN_STEP = 0.03  # of a slowdown: less is no reason to plan again, nor to think the device changed
AS_PROFILED = 0.05  # of a slowdown: runs on a device that is well differ by as much from those profiled
BEYOND = 1.1  # times the promised rate: what is more is not noise
COARSE = 1.25  # factor between steps of a standard deviation
MODELS_A_SECOND = 5.0  # whose rates are looked at again, so that plans for many do not keep the node busy


def as_seen(state: State, demands: Sequence[Demand], node: Node) -> tuple[tuple[Demand, ...], Node]:
    """What is planned for: rates, slowdowns and rest in steps; each model where it will be after its move."""
    lost = {device.id for device in node.devices if device.lost}
    before = {d.id: d.slowdown for d in state.planned.node.devices} if state.planned else {}
    devices = tuple(
        replace(device, slowdown=_stepped(before.get(device.id, 1.0), state.slowdowns[device.id].mean))
        for device in node.devices
    )
    rates: dict[str, float | None] = {}
    if state.planned and state.time - state.planned.time < (len(demands) - 1) / MODELS_A_SECOND:
        rates = {demand.model: demand.rate_hz for demand in state.planned.demands}
    seen = tuple(_as_seen(state, demand, lost, rates.get(demand.model)) for demand in demands)
    rest_w, sigma_w = state.rest.planned_w, 0.0
    if rest_w is not None and node.power_cap_w is None:
        rest_w = round(rest_w, 1)  # decides nothing
    elif rest_w is not None:
        rest_w, sigma_w = rest_w + _beyond_w(state, seen), _coarse(_known_sigma(state, seen, node))
    return seen, replace(node, devices=devices, rest_w=rest_w, rest_sigma_w=sigma_w)


def _as_seen(state: State, demand: Demand, lost: Container[str], rate_hz: float | None) -> Demand:
    asked = state.asked.get(demand.model)
    rate_hz = state.loads[demand.model].planned_hz if rate_hz is None else rate_hz
    incumbent = asked.candidate if asked else demand.incumbent
    if incumbent is None or incumbent.device in lost:  # better what failed it than nothing
        return replace(demand, rate_hz=rate_hz, incumbent=incumbent)
    out = tuple(
        Verdict(candidate, False, bar.why)
        for (model, candidate), bar in state.bars.items()
        if candidate and model == demand.model and candidate != incumbent and state.time < bar.until
    )
    return replace(demand, rate_hz=rate_hz, incumbent=incumbent, failed=(*demand.failed, *out))


def _beyond_w(state: State, seen: Sequence[Demand]) -> float:
    """What requests beyond the promised rates draw where the models are: the node's cap holds for them, too. Only what
    is surely beyond: to leave a device for the chance of arrivals costs more than it keeps."""
    watts = 0.0
    for demand in seen:
        beyond_hz = state.loads[demand.model].surely_hz - BEYOND * demand.budget.rate_hz
        here = next((m for m in demand.measurements if m.candidate == demand.incumbent), None)
        if here is not None and beyond_hz > 0:
            watts += beyond_hz * (joules_of(here) or 0.0)
    return watts


def _known_sigma(state: State, seen: Sequence[Demand], node: Node) -> float:
    """Of the rest. What grows while no meter tells does not of itself put what runs over the cap."""
    rest, cap_w = state.rest, node.power_cap_w
    if not rest.blind_s or cap_w is None or rest.planned_w is None:
        return rest.sigma_w
    by = measured(seen)
    held = [(m, d.budget.rate_hz) for d in seen if d.incumbent and (m := by.get((d.model, d.incumbent)))]
    most = (cap_w - bound_w(rest.planned_w, 0.0, held)) / SIGMAS / COARSE
    return max(rest.seen_sigma_w, min(rest.sigma_w, most))


def _coarse(sigma_w: float) -> float:
    """In steps, upwards: less is no reason to plan again."""
    return math.pow(COARSE, math.ceil(math.log(sigma_w, COARSE))) if sigma_w > 0 else 0.0


def _stepped(before: float, now: float) -> float:
    if abs(now - 1.0) <= AS_PROFILED:
        return 1.0  # well again: a step that stayed would bar what just fits its budget for good
    return before if abs(now - before) <= SLOWDOWN_STEP * before else round(now, 3)
