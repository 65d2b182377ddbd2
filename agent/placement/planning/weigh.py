"""The problem of placing models on a node as it is now: every way of each, with what it costs and uses. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.placement.demand import Demand, DeviceState, Node
from agent.placement.planning.limits import LATE, MAX_UTILISATION, SHED, WRONG
from agent.placement.planning.problem import Option, Problem
from agent.placement.planning.ways import HYSTERESIS, SIGMAS, Way, finite, held_w, joules_of, sigma_of, viewed
from agent.types import OverlayRef, Verdict

COMPOSITE = 0.15  # by which a placement on several devices must be better than one on a single device
UNIT = 100  # of loss, in which weights are counted
NEWCOMER = 99  # of these is lost by shedding who does not run yet
IDLE_HZ = 1e-4  # what a run's energy counts for where nothing is asked: holding decides first
BY_TIME_W = 1e-3  # what p99 / budget counts for where energies are missing: other models' watts decide first
MAX_LATE = 10.0  # p99 / budget beyond which late is late


@dataclass(frozen=True, slots=True)
class Model:
    """One demand. ``out``: verdicts of candidates that cannot be taken; ``by_time``: p99 is weighed, since an energy is
    missing; ``ways_of``: the way of each option, None for shedding, with whether company makes it late."""

    demand: Demand
    rate_hz: float
    ways: tuple[Way, ...]
    out: tuple[Verdict, ...]
    by_time: bool
    options: tuple[Option, ...]
    way_of: tuple[Way | None, ...]

    @property
    def by(self) -> str:
        """What is compared."""
        return "p99" if self.by_time else "energy"


@dataclass(frozen=True, slots=True)
class Setting:
    """All of it. ``unkept``: the cap is below the node's rest, so nothing keeps it."""

    node: Node
    devices: tuple[DeviceState, ...]
    models: tuple[Model, ...]
    problem: Problem
    unkept: bool


def setting_of(demands: Sequence[Demand], node: Node, dwell_s: float) -> Setting:
    """The problem of placing ``demands``, sorted by name. ValueError when two have the same."""
    ordered = sorted(demands, key=lambda demand: demand.model)
    for one, other in itertools.pairwise(ordered):
        if one.model == other.model:
            raise ValueError(f"model {one.model!r} is asked for twice")
    devices = tuple(sorted(node.devices, key=lambda device: device.id))
    rest_w, cap_w = finite(node.rest_w), finite(node.power_cap_w)
    room_w = (
        None
        if rest_w is None or cap_w is None
        else cap_w - rest_w - SIGMAS * (finite(node.rest_sigma_w) or 0.0)
    )
    unkept = room_w is not None and room_w < 0
    count = len(devices)
    capacity = [MAX_UTILISATION[device.kind] for device in devices]
    capacity += [math.inf if device.memory_mb is None else float(device.memory_mb) for device in devices]
    power = None
    if room_w is not None and not unkept:
        power = len(capacity)
        capacity.append(room_w)
    overlays: dict[OverlayRef, int] = {}
    seen = [viewed(demand, devices, node.threads) for demand in ordered]
    waits = _longest_waits([ways for ways, _ in seen], count)
    models = tuple(
        _model(demand, ways, out, waits[i], overlays, power, dwell_s, unkept)
        for i, (demand, (ways, out)) in enumerate(zip(ordered, seen, strict=True))
    )
    problem = Problem(tuple(model.options for model in models), tuple(capacity), count, power)
    return Setting(node, devices, models, problem, unkept)


def _longest_waits(ways: Sequence[Sequence[Way]], devices: int) -> list[list[float]]:
    """The longest wait that the others may bring, by model and device."""
    own = [[0.0] * devices for _ in ways]
    for i, of_model in enumerate(ways):
        for way in of_model:
            for device, run_s in way.waits:
                own[i][device] = max(own[i][device], run_s)
    longest = [[0.0] * devices for _ in ways]
    for device in range(devices):
        first = second = 0.0
        for row in own:
            if row[device] > first:
                first, second = row[device], first
            else:
                second = max(second, row[device])
        for i, row in enumerate(own):
            longest[i][device] = second if row[device] == first else first
    return longest


def _model(
    demand: Demand,
    ways: tuple[Way, ...],
    out: tuple[Verdict, ...],
    longest: Sequence[float],
    overlays: dict[OverlayRef, int],
    power: int | None,
    dwell_s: float,
    unkept: bool,
) -> Model:
    rate_hz = finite(demand.rate_hz)
    rate_hz = demand.budget.rate_hz if rate_hz is None or rate_hz < 0 else rate_hz
    if unkept:
        rate_hz = demand.budget.rate_hz
    weight = 4**demand.budget.priority
    asked = [way for way in ways if not way.lost] or ways
    by_time = any(joules_of(way.m) is None for way in asked)
    costs = _costs(demand, ways, rate_hz, by_time, dwell_s)
    options: list[Option] = []
    way_of: list[Way | None] = []
    for way, cost in zip(ways, costs, strict=True):
        m = way.m
        uses = way.uses if power is None or not way.draw_w else (*way.uses, (power, way.draw_w))
        overlay = None if m.overlay is None else (way.device, overlays.setdefault(m.overlay, len(overlays)))
        crowded = not (unkept or way.lost) and any(longest[device] > way.bears_s for device, _ in way.waits)
        waits = tuple((device, run_s, way.bears_s if crowded else math.inf) for device, run_s in way.waits)
        hold_cost = 0.0 if by_time else held_w(m)
        lost = way.lost if not unkept or way.lost >= WRONG else 0
        option = Option(lost * weight * UNIT, cost, uses, way.device, hold_cost, held_w(m), overlay, waits)
        options.append(option)
        way_of.append(way)
        if crowded:
            waits = tuple((device, run_s, math.inf) for device, run_s in way.waits)
            options.append(option._replace(loss=LATE * weight * UNIT, waits=waits))
            way_of.append(way)
    options.append(Option(SHED * weight * (NEWCOMER if demand.incumbent is None else UNIT), 0.0))
    way_of.append(None)
    return Model(demand, rate_hz, ways, out, by_time, tuple(options), tuple(way_of))


def _costs(
    demand: Demand, ways: tuple[Way, ...], rate_hz: float, by_time: bool, dwell_s: float
) -> list[float]:
    """Of each way without holding: its watts, what moving there costs, and by how much it must be better to be worth
    it than the incumbent, or than a single device."""
    incumbent = next((way for way in ways if way.m.candidate == demand.incumbent), None)
    single = min((way.lost for way in ways if not way.composite), default=SHED)
    own = [_own_w(way, rate_hz, by_time) for way in ways]
    here = None if incumbent is None else own[ways.index(incumbent)]
    costs = []
    for way, (run_w, hold_w) in zip(ways, own, strict=True):
        cost = run_w
        if way.composite and single <= way.lost:
            cost += COMPOSITE * (run_w + hold_w)
        if way is not incumbent:
            load_j = way.m.load_j
            if load_j is not None and 0 < load_j < math.inf and not by_time and dwell_s > 0:
                cost += load_j / dwell_s
            if incumbent is not None and here is not None and incumbent.lost <= way.lost:
                apart = 0.0 if by_time else rate_hz * math.hypot(sigma_of(way.m), sigma_of(incumbent.m))
                cost += max(HYSTERESIS * sum(here), apart)
        costs.append(cost)
    return costs


def _own_w(way: Way, rate_hz: float, by_time: bool) -> tuple[float, float]:
    """What is minimised, running and holding."""
    if by_time:
        late = way.checks[0].excess
        return BY_TIME_W * min(late, MAX_LATE), 0.0
    return (rate_hz or IDLE_HZ) * (joules_of(way.m) or 0.0), held_w(way.m)
