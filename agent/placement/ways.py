"""The ways to run each model on the node as it is now, in numbers, and the problem that they make. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.placement.demand import Demand, DeviceState, Node
from agent.placement.limits import LATE, MAX_UTILISATION, SHED, WRONG, Check, checks_of, lost_of
from agent.placement.problem import Option, Problem
from agent.types import Candidate, Measurement, OverlayRef, Verdict

SIGMAS = 1.64  # above the mean: 95 % of a normal distribution lie below
HYSTERESIS = 0.05  # of the incumbent's cost
COMPOSITE = 0.15  # by which a placement on several devices must be better than one on a single device
NEWCOMER = 99  # of 100, which is what a model that runs weighs
IDLE_HZ = 1e-4  # what a run's energy counts for where nothing is asked: holding decides first
BY_TIME_W = 1e-3  # what p99 / budget counts for where energies are missing: other models' watts decide first
MAX_LATE = 10.0  # p99 / budget beyond which late is late
RARE = 0.01  # of a device: who uses it less makes nobody wait


class Way(NamedTuple):
    """A measured candidate. ``lost``: see ``limits.lost_of``; ``draw_w``: at the budget's rate, mean + 1.64
    sigma, without holding; ``uses``: (resource, amount); ``waits``: (device, seconds that a run there takes)."""

    m: Measurement
    checks: tuple[Check, ...]
    lost: int
    draw_w: float
    uses: tuple[tuple[int, float], ...]
    waits: tuple[tuple[int, float], ...]
    bears_s: float
    device: int

    @property
    def composite(self) -> bool:
        return len(self.m.parts) > 1


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
    viewed = [_viewed(demand, devices, node.threads) for demand in ordered]
    waits = _longest_waits([ways for ways, _ in viewed], count)
    models = tuple(
        _model(demand, ways, out, waits[i], overlays, power, dwell_s, unkept)
        for i, (demand, (ways, out)) in enumerate(zip(ordered, viewed, strict=True))
    )
    problem = Problem(tuple(model.options for model in models), tuple(capacity), count, power)
    return Setting(node, devices, models, problem, unkept)


def finite(value: float | None) -> float | None:
    """None for what is not a number that can be reckoned with."""
    return value if value is not None and math.isfinite(value) else None


def joules_of(m: Measurement) -> float | None:
    """Of a run; None when missing or nonsense."""
    return m.joules if m.joules is not None and 0 <= m.joules < math.inf else None


def held_w(m: Measurement) -> float:
    """Watts for holding it loaded; 0 when not known or nonsense."""
    return m.holding_w if m.holding_w is not None and 0 < m.holding_w < math.inf else 0.0


# -- candidates --------------------------------------------------------------------------------------------------------


def _viewed(
    demand: Demand, devices: tuple[DeviceState, ...], threads: int
) -> tuple[tuple[Way, ...], tuple[Verdict, ...]]:
    """Ways by candidate, and verdicts for what is out."""
    failed = {verdict.candidate for verdict in demand.failed}
    index = {device.id: i for i, device in enumerate(devices)}
    kinds: dict[str, int] = {}
    for i, device in enumerate(devices):
        kinds.setdefault(device.kind, i)
    latest: dict[Candidate, Measurement] = {}
    for m in (
        sorted(demand.measurements, key=lambda m: (m.measured, repr(m)))
        if _twice(demand)
        else demand.measurements
    ):
        latest[m.candidate] = m
    ways, out = [], list(demand.failed)
    for m in latest.values():
        if m.candidate in failed:
            continue
        parts = _parts(m, index, kinds)
        why = _unusable(m, parts, devices)
        if why:
            out.append(Verdict(m.candidate, False, why, m))
        else:
            ways.append(_way(demand, m, parts, devices, threads))
    return tuple(sorted(ways, key=lambda way: str(way.m.candidate))), tuple(out)


def _twice(demand: Demand) -> bool:
    return len({m.candidate for m in demand.measurements}) < len(demand.measurements)


def _parts(
    m: Measurement, index: Mapping[str, int], kinds: Mapping[str, int]
) -> list[tuple[int | None, float]]:
    """(device, mean ms there) of a run: the candidate's own device first."""
    own = index.get(m.candidate.device)
    if len(m.parts) < 2:
        return [(own, m.mean_ms)]
    found = [(index.get(name, kinds.get(name)), part_ms) for name, part_ms in m.parts]
    return sorted(found, key=lambda part: part[0] != own)


def _unusable(
    m: Measurement, parts: Sequence[tuple[int | None, float]], devices: tuple[DeviceState, ...]
) -> str:
    for device, _ in parts:
        if device is None:
            return f"{m.candidate.device} is no device of this node"
        if devices[device].lost:
            return f"{devices[device].id} is lost: {devices[device].lost}"
    own = devices[parts[0][0] or 0]
    if own.memory_mb is not None and m.memory_mb > own.memory_mb:
        return f"memory {m.memory_mb:.4g} MB > {own.memory_mb:g} MB of {own.id}"
    return ""


def slowdown(device: DeviceState) -> float:
    """1 where it is nonsense."""
    return device.slowdown if 0 < device.slowdown < math.inf else 1.0


def _way(
    demand: Demand,
    m: Measurement,
    parts: Sequence[tuple[int | None, float]],
    devices: tuple[DeviceState, ...],
    threads: int,
) -> Way:
    budget, count = demand.budget, len(devices)
    placed = [(index or 0, part_ms) for index, part_ms in parts]
    own = devices[placed[0][0]]
    whole_ms = sum(part_ms for _, part_ms in placed)
    slow = slowdown(own)
    if len(placed) > 1 and whole_ms > 0:
        slow = sum(part_ms * slowdown(devices[index]) for index, part_ms in placed) / whole_ms
    lanes = 1.0
    if own.kind == "cpu":
        lanes = max(1.0, min(float(demand.instances), own.parallel / max(1, threads)))
    p99_ms, used = m.p99_ms * slow, budget.rate_hz * m.mean_ms * slow / 1e3 / lanes
    joules, holding_w = joules_of(m), held_w(m)
    watts = None if joules is None else budget.rate_hz * joules + holding_w
    note = f" ({own.id} {slow:.2g} x slower)" if slow > 1.05 else ""
    checks = checks_of(budget, own.kind, p99_ms, used, m.accuracy, watts, note)
    credit = 1 + HYSTERESIS if m.candidate == demand.incumbent else 1.0
    draw_w = 0.0 if joules is None else budget.rate_hz * (joules + SIGMAS * _sigma(m))
    uses, waits = [], []
    for index, part_ms in placed:
        device = devices[index]
        share = min(threads, device.parallel) / device.parallel if device.kind == "cpu" else 1.0
        busy = budget.rate_hz * part_ms * slowdown(device) / 1e3 * share
        most = min(lanes * share, MAX_UTILISATION[device.kind])
        busy = most if not busy <= most else busy  # a worker that cannot keep up takes no more than it can
        if busy > 0:
            uses.append((index, busy))
        if device.parallel == 1:
            run_s = m.p50_ms / 1e3 * slowdown(device) * (part_ms / whole_ms if whole_ms > 0 else 1.0)
            waits.append((index, run_s if busy > RARE and run_s > 0 else 0.0))
    if 0 < m.memory_mb < math.inf:
        uses.append((count + placed[0][0], m.memory_mb))
    bears_s = (budget.latency_p99_ms - p99_ms) / 1e3
    return Way(m, checks, lost_of(checks, credit), draw_w, tuple(uses), tuple(waits), bears_s, placed[0][0])


def _sigma(m: Measurement) -> float:
    return m.joules_sigma if m.joules_sigma is not None and 0 < m.joules_sigma < math.inf else 0.0


# -- options -----------------------------------------------------------------------------------------------------------


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
    weight = 4**demand.budget.priority * (100 if demand.incumbent is not None else NEWCOMER)
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
        option = Option(lost * weight, cost, uses, way.device, hold_cost, held_w(m), overlay, waits)
        options.append(option)
        way_of.append(way)
        if crowded:
            waits = tuple((device, run_s, math.inf) for device, run_s in way.waits)
            options.append(option._replace(loss=LATE * weight, waits=waits))
            way_of.append(way)
    options.append(Option(SHED * weight, 0.0))
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
                apart = 0.0 if by_time else rate_hz * math.hypot(_sigma(way.m), _sigma(incumbent.m))
                cost += max(HYSTERESIS * sum(here), apart)
        costs.append(cost)
    return costs


def _own_w(way: Way, rate_hz: float, by_time: bool) -> tuple[float, float]:
    """What is minimised, running and holding."""
    if by_time:
        late = way.checks[0].excess
        return BY_TIME_W * min(late, MAX_LATE), 0.0
    return (rate_hz or IDLE_HZ) * (joules_of(way.m) or 0.0), held_w(way.m)
