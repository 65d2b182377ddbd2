"""What the planner is told of a node's models and devices, and what its plans make of their placements. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, cast

from agent.placement.adapting.adapt import Move
from agent.placement.demand import Demand, DeviceState, Node, Placed
from agent.types import BoardInfo, Budget, Candidate, Measurement, OverlayRef, Placement, Verdict

REST_SHARE = 0.01  # how uncertain a first guess of the rest is


def demand_of(placement: Placement) -> Demand:
    """A model in service. Measurements are in the order of candidates, so that equal placements are equal demands."""
    return demand(
        placement.model,
        placement.budget,
        [v.measurement for v in placement.verdicts if v.measurement is not None],
        [v for v in placement.verdicts if v.measurement is None],
        None if placement.shed else placement.candidate,
        placement.instances,
    )


def demand(
    model: str,
    budget: Budget,
    measurements: Iterable[Measurement],
    failed: Iterable[Verdict],
    incumbent: Candidate | None,
    instances: int,
) -> Demand:
    """See ``Demand``."""
    return Demand(
        model,
        budget,
        tuple(sorted(measurements, key=lambda m: str(m.candidate))),
        tuple(sorted(failed, key=lambda v: str(v.candidate))),
        incumbent,
        instances,
    )


def node_of(
    board: BoardInfo,
    demands: Iterable[Demand],
    lost: Mapping[str, str],
    power_cap_w: float | None,
    threads: int,
) -> Node:
    """The node with its devices as probed. Its rest is a first guess: the least that was measured beside a model."""
    devices = tuple(
        DeviceState(
            device.id,
            cast(Literal["cpu", "gpu", "fpga"], device.kind),
            device.parallel,
            device.memory_mb,
            lost=lost.get(device.id, ""),
        )
        for device in board.devices
        if device.kind in ("cpu", "gpu", "fpga")
    )
    found = [m.rest_w for each in demands for m in each.measurements if m.rest_w is not None]
    rest_w = min((watts for watts in found if math.isfinite(watts)), default=None)
    return Node(devices, power_cap_w, rest_w, REST_SHARE * (rest_w or 0.0), threads)


def replaced(old: Placement, placed: Placed, now: float) -> Placement:
    """The placement as planned, at ``now`` in Unix seconds; the same object when nothing is new.

    What was measured of a candidate stays, also while it is barred.
    """
    known = {verdict.candidate: verdict.measurement for verdict in old.verdicts}
    candidate = placed.candidate or old.candidate
    verdicts = tuple(
        verdict if verdict.measurement else replace(verdict, measurement=known.get(verdict.candidate))
        for verdict in placed.verdicts
    )
    shed = placed.candidate is None
    if (candidate, shed, placed.reason, verdicts) == (old.candidate, old.shed, old.reason, old.verdicts):
        return old
    return replace(old, candidate=candidate, shed=shed, reason=placed.reason, verdicts=verdicts, decided=now)


def overlay_on(placement: Placement, device: str) -> OverlayRef | None:
    """The overlay that a placement keeps on a device; None where it keeps none."""
    if placement.shed or placement.candidate.device != device or placement.measurement is None:
        return None
    return placement.measurement.overlay


def as_moved(placed: Placed, move: Move) -> Placed:
    """A model's part of a plan, with where it goes now, which is not always where it should be in the end."""
    if placed.candidate == move.candidate:
        return placed
    verdicts = tuple(
        replace(v, chosen=True, reason=move.reason)
        if v.candidate == move.candidate
        else replace(v, chosen=False)
        for v in placed.verdicts
    )
    measurement = next((v.measurement for v in verdicts if v.chosen), None)
    return replace(
        placed, candidate=move.candidate, measurement=measurement, verdicts=verdicts, reason=move.reason
    )
