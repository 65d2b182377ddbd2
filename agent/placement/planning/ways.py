"""The ways to run a model on the node as it is now, in numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.placement.demand import Demand, DeviceState
from agent.placement.planning.limits import MAX_UTILISATION, Check, checks_of, lost_of
from agent.types import Candidate, Measurement, Verdict

SIGMAS = 1.64  # above the mean: 95 % of a normal distribution lie below
HYSTERESIS = 0.05  # of the incumbent's cost
MOST = 1e9  # J or W: more is nonsense
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


def finite(value: float | None) -> float | None:
    """None for what is not a number that can be reckoned with."""
    return value if value is not None and math.isfinite(value) else None


def joules_of(m: Measurement) -> float | None:
    """Of a run; None when missing or nonsense."""
    return m.joules if m.joules is not None and 0 <= m.joules < MOST else None


def held_w(m: Measurement) -> float:
    """Watts for holding it loaded; 0 when not known or nonsense."""
    return m.holding_w if m.holding_w is not None and 0 < m.holding_w < MOST else 0.0


def viewed(
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
        parts = _parts(m, devices, index, kinds)
        why = _unusable(m, parts, devices)
        if why:
            out.append(Verdict(m.candidate, False, why, m))
        else:
            ways.append(_way(demand, m, parts, devices, threads))
    return tuple(sorted(ways, key=lambda way: str(way.m.candidate))), tuple(out)


def _twice(demand: Demand) -> bool:
    return len({m.candidate for m in demand.measurements}) < len(demand.measurements)


def _parts(
    m: Measurement, devices: tuple[DeviceState, ...], index: Mapping[str, int], kinds: Mapping[str, int]
) -> list[tuple[int | None, float]]:
    """(device, mean ms there) of a run, the candidate's own device first; parts are named by device or by kind."""
    own = index.get(m.candidate.device)
    if len(m.parts) < 2:
        return [(own, m.mean_ms)]
    where = {**kinds, **index}
    if own is not None:
        where[devices[own].kind] = own
    found = [(where.get(name), part_ms) for name, part_ms in m.parts]
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
    budget, count, threads = demand.budget, len(devices), max(1, threads)
    placed = [(index or 0, part_ms) for index, part_ms in parts]
    own = devices[placed[0][0]]
    whole_ms = sum(part_ms for _, part_ms in placed)
    slow = slowdown(own)
    if len(placed) > 1 and whole_ms > 0:
        slow = sum(part_ms * slowdown(devices[index]) for index, part_ms in placed) / whole_ms
    lanes = 1.0
    if own.kind == "cpu":
        lanes = max(1.0, min(float(demand.instances), own.parallel / threads))
    p99_ms, used = m.p99_ms * slow, budget.rate_hz * m.mean_ms * slow / 1e3 / lanes
    joules, holding_w = joules_of(m), held_w(m)
    watts = None if joules is None else budget.rate_hz * joules + holding_w
    note = f" ({own.id} {slow:.2g} x slower)" if slow > 1.05 else ""
    checks = checks_of(budget, own.kind, p99_ms, used, m.accuracy, watts, note)
    credit = 1 + HYSTERESIS if m.candidate == demand.incumbent else 1.0
    draw_w = 0.0 if joules is None else budget.rate_hz * (joules + SIGMAS * sigma_of(m))
    uses, waits = [], []
    for index, part_ms in placed:
        device = devices[index]
        share = min(1.0, threads / max(1, device.parallel)) if device.kind == "cpu" else 1.0
        busy = budget.rate_hz * part_ms * slowdown(device) / 1e3 * share
        most = min(lanes * share, MAX_UTILISATION[device.kind])
        busy = most if not busy <= most else busy  # a worker that cannot keep up takes no more than it can
        if busy > 0:
            uses.append((index, busy))
        if device.parallel <= 1:
            run_s = m.p50_ms / 1e3 * slowdown(device) * (part_ms / whole_ms if whole_ms > 0 else 1.0)
            waits.append((index, run_s if busy > RARE and run_s > 0 else 0.0))
    if 0 < m.memory_mb < math.inf:
        uses.append((count + placed[0][0], m.memory_mb))
    bears_s = (budget.latency_p99_ms - p99_ms) / 1e3
    return Way(m, checks, lost_of(checks, credit), draw_w, tuple(uses), tuple(waits), bears_s, placed[0][0])


def sigma_of(m: Measurement) -> float:
    """Of a run's joules; 0 when not known or nonsense."""
    return m.joules_sigma if m.joules_sigma is not None and 0 < m.joules_sigma < MOST else 0.0
