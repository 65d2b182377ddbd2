"""What ``overlaid explain`` shows: the decision, the node's plan, and what would change the choice. JSON values."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.placement.demand import Demand, DeviceState, Node, Plan
from agent.placement.planning import plan
from agent.placement.planning.limits import MAX_UTILISATION
from agent.placement.planning.outlook import outlook
from agent.types import Measurement, Placement, Verdict, to_jsonable


async def explained(
    placement: Placement,
    demands: Sequence[Demand],
    out: Mapping[str, tuple[Verdict, ...]],
    node: Node,
    sigmas: Mapping[str, float],
    power_w: float | None,
    meters: Sequence[str],
) -> dict[str, Any]:
    """``demands`` on ``node``: as they are seen; ``out``: candidates that are left alone now, by model. ``sigmas``: of
    devices' slowdowns. ``meters``: rails by name."""
    model = placement.model
    now: Plan | None = None
    thresholds: tuple[Any, ...] = ()
    if any(demand.model == model for demand in demands):
        now = await asyncio.to_thread(plan.plan, demands, node)
        if any(now.of(demand.model).candidate != demand.incumbent for demand in demands):
            # What is left alone matters. Where it does not, it would come into its own when something else is lost.
            demands = [replace(demand, failed=out.get(demand.model, demand.failed)) for demand in demands]
            now = await asyncio.to_thread(plan.plan, demands, node)
        thresholds = await asyncio.to_thread(outlook, demands, node, now, model)
    return {
        "placement": {
            **to_jsonable(placement),
            "candidate": None if placement.shed else to_jsonable(placement.candidate),
        },
        "plan": None
        if now is None
        else {
            "watts": now.watts,
            "watts_bound": now.watts_bound,
            "optimal": now.optimal,
            "cap_w": node.power_cap_w,
            "rest_w": node.rest_w,
            "rest_sigma_w": node.rest_sigma_w,
            "power_w": power_w,
            "sensor": ", ".join(meters) or None,
        },
        "models": models_shown(demands, now),
        "devices": devices_shown(demands, node, sigmas),
        "threads": node.threads,
        "outlook": [to_jsonable(each) for each in thresholds],
    }


def models_shown(demands: Sequence[Demand], now: Plan | None) -> list[dict[str, Any]]:
    """Who shares the node, where everybody runs, and what of its budget it does not get as planned."""
    rows = []
    for demand in sorted(demands, key=lambda each: each.model):
        here = measured_here(demand)
        rate_hz = demand.budget.rate_hz if demand.rate_hz is None else demand.rate_hz
        rows.append(
            {
                "model": demand.model,
                "candidate": to_jsonable(demand.incumbent),
                "priority": demand.budget.priority,
                "budget_hz": demand.budget.rate_hz,
                "rate_hz": demand.rate_hz,
                "watts": None if here is None else here.average_w(rate_hz),
                "missed": now.of(demand.model).missed if now else "",
            }
        )
    return rows


def devices_shown(demands: Sequence[Demand], node: Node, sigmas: Mapping[str, float]) -> list[dict[str, Any]]:
    """The devices as they are used now, at the rates that are seen."""
    here = [(demand, m) for demand in demands if (m := measured_here(demand)) is not None]
    return [
        {
            "id": device.id,
            "kind": device.kind,
            "parallel": device.parallel,
            "slowdown": device.slowdown,
            "sigma": sigmas.get(device.id),
            "utilisation": sum(_share(demand, m, device, node.threads) for demand, m in here),
            "limit": MAX_UTILISATION[device.kind],
            "overlay": next(
                (str(m.overlay) for _, m in here if m.overlay and m.candidate.device == device.id), None
            ),
            "lost": device.lost,
        }
        for device in node.devices
    ]


def measured_here(demand: Demand) -> Measurement | None:
    """What was measured of where a model runs."""
    return next((m for m in demand.measurements if m.candidate == demand.incumbent), None)


def _share(demand: Demand, m: Measurement, device: DeviceState, threads: int) -> float:
    """Of the device's time."""
    rate_hz = demand.budget.rate_hz if demand.rate_hz is None else demand.rate_hz
    parts = m.parts if len(m.parts) > 1 else ((m.candidate.device, m.mean_ms),)
    ms = sum(part_ms for name, part_ms in parts if name in (device.id, device.kind))
    beside = threads if device.kind == "cpu" else 1
    return rate_hz * ms / 1e3 * device.slowdown * beside / max(1, device.parallel)
