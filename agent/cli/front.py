"""The latency-energy front of a model's candidates: what it is, and how a terminal shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from agent.cli.candidates import SIGMAS_95, error
from agent.cli.views import Values, number, runs

LEAST = 1e-9  # of what is drawn by its logarithm
WIDTH, HEIGHT = 64, 16  # of the terminal's picture, in characters


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate. ``energy_mj``: of a request, with its share of what holding the model loaded takes; ``error_mj``:
    half its 95 % interval. ``front``: no other candidate is both as quick and as thrifty."""

    name: str
    p99_ms: float
    energy_mj: float
    error_mj: float | None
    tag: str
    front: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class Front:
    """``points`` from the quickest on. ``limits_mj``: bounds on a request's energy by what sets them. ``without``:
    measured candidates that have no energy figure."""

    points: tuple[Point, ...]
    rate_hz: float
    latency_ms: float
    limits_mj: tuple[tuple[str, float], ...]
    without: tuple[str, ...]

    @property
    def energy_text(self) -> str:
        return (
            f"mJ a request at {self.rate_hz:g}/s, holding included" if self.rate_hz else "mJ a run (rate 0)"
        )


def front_of(node: Values) -> Front:
    """The front of what a bench measured (its answer's JSON values), at the budget's rate."""
    rate_hz, budget = node["budget"]["rate_hz"], node["budget"]
    measured = [verdict["measurement"] for verdict in node["verdicts"] if verdict["measurement"]]
    known = [m for m in measured if m["joules"] is not None]
    costs = [_energy_mj(m, rate_hz) for m in known]
    points = [
        Point(
            runs(m["candidate"]),
            m["p99_ms"],
            cost,
            None if m.get("joules_sigma") is None else SIGMAS_95 * m["joules_sigma"] * 1e3,
            m["energy"],
            not any(_beats(other, theirs, m, cost) for other, theirs in zip(known, costs, strict=True)),
            m["candidate"] == node.get("candidate"),
        )
        for m, cost in zip(known, costs, strict=True)
    ]
    limits = {"power budget": budget["power_w"], "node's cap": _left_w(node)} if rate_hz else {}
    return Front(
        tuple(sorted(points, key=lambda point: (point.p99_ms, point.energy_mj, point.name))),
        rate_hz,
        budget["latency_p99_ms"],
        tuple((what, watts / rate_hz * 1e3) for what, watts in limits.items() if watts is not None),
        tuple(runs(m["candidate"]) for m in measured if m["joules"] is None),
    )


def _energy_mj(m: Values, rate_hz: float) -> float:
    held = (m["holding_w"] or 0.0) / rate_hz if rate_hz else 0.0
    return float((m["joules"] + held) * 1e3)


def _beats(other: Values, theirs: float, m: Values, mine: float) -> bool:
    no_worse = other["p99_ms"] <= m["p99_ms"] and theirs <= mine
    return no_worse and (other["p99_ms"] < m["p99_ms"] or theirs < mine)


def _left_w(node: Values) -> float | None:
    """Watts that the cap leaves beside the node's rest; None without either, or when nothing is left."""
    cap_w, rest_w = node.get("power_cap_w"), node.get("rest_w")
    return cap_w - rest_w if cap_w is not None and rest_w is not None and cap_w > rest_w else None


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values lie between 0 and 1: by their logarithm when all are well above 0."""

    low: float
    high: float
    log: bool

    def at(self, value: float) -> float:
        low, high, here = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return (here - low) / (high - low)


def scale_of(values: Sequence[float]) -> Scale:
    """A scale with room around the values, of which there is one at least."""
    low, high = min(values), max(values)
    if low > LEAST:
        room = max(1.15, (high / low) ** 0.06)
        return Scale(low / room, high * room, log=True)
    room = 0.06 * (high - low) or 1.0
    return Scale(low - room, high + room, log=False)


def letters(front: Front) -> list[str]:
    """A mark for each point: A, B, ... on the front, small ones behind it."""
    marks = [ascii_uppercase[i % 26] for i in range(len(front.points))]
    return [mark if point.front else mark.lower() for mark, point in zip(marks, front.points, strict=True)]


def draw(front: Front) -> Iterator[str]:
    """The lines of the picture and its legend; ``front`` has at least one point."""
    across = scale_of([*(point.p99_ms for point in front.points), front.latency_ms])
    up = scale_of([*(point.energy_mj for point in front.points), *(mj for _, mj in front.limits_mj)])
    canvas = [[" "] * WIDTH for _ in range(HEIGHT)]
    column = _cell(across.at(front.latency_ms), WIDTH)
    for _, mj in front.limits_mj:
        canvas[HEIGHT - 1 - _cell(up.at(mj), HEIGHT)] = ["-"] * WIDTH
    for row in canvas:
        row[column] = "|"
    for mark, point in sorted(zip(letters(front), front.points, strict=True), key=lambda pair: pair[1].front):
        row = canvas[HEIGHT - 1 - _cell(up.at(point.energy_mj), HEIGHT)]
        row[_cell(across.at(point.p99_ms), WIDTH)] = mark  # the front's above the others'
    yield from _framed(canvas, front, across, up)
    yield from _legend(front)


def _cell(share: float, cells: int) -> int:
    return min(cells - 1, max(0, int(share * cells)))


def _framed(canvas: list[list[str]], front: Front, across: Scale, up: Scale) -> Iterator[str]:
    top, bottom = number(up.high) or "", number(up.low) or ""
    pad = max(len(top), len(bottom))
    yield f"{' ' * pad} {front.energy_text}"
    for i, row in enumerate(canvas):
        label = top if i == 0 else bottom if i == HEIGHT - 1 else ""
        yield f"{label:>{pad}} |{''.join(row)}".rstrip()
    yield f"{' ' * pad} +{'-' * WIDTH}"
    left, right = number(across.low) or "", f"{number(across.high)} ms p99"
    yield f"{' ' * pad}  {left}{right:>{WIDTH - len(left)}}"


def _legend(front: Front) -> Iterator[str]:
    for mark, point in zip(letters(front), front.points, strict=True):
        uncertain = "" if point.error_mj is None else error(point.error_mj)
        where = ", ".join(
            text for text, yes in (("on the front", point.front), ("runs", point.chosen)) if yes
        )
        figures = f"p99 {number(point.p99_ms)} ms, {number(point.energy_mj)}{uncertain} mJ {point.tag}"
        yield f"  {mark}  {point.name}: {figures}" + (f" ({where})" if where else "")
    yield f"  |  latency budget {number(front.latency_ms)} ms"
    for what, mj in front.limits_mj:
        yield f"  -  {what}: {number(mj)} mJ a request"
    for name in front.without:
        yield f"  no energy figure, not drawn: {name}"
