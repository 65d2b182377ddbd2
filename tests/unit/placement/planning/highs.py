"""The same problem solved by HiGHS (scipy), another solver's word on what is best."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from agent.placement.planning.problem import Option, Problem

LOSS = 1e5  # one model's of priority 0: solvers like numbers near 1


class _Rows:
    """Constraints as sparse rows: low <= row <= high."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        self.entries += [(len(self.low), column, value) for column, value in terms]
        self.low.append(low)
        self.high.append(high)

    def constraint(self, columns: int) -> LinearConstraint:
        rows, cols, values = zip(*self.entries, strict=True)
        matrix = coo_array((values, (rows, cols)), shape=(len(self.low), columns)).tocsr()
        return LinearConstraint(matrix, self.low, self.high)


def solve_with_highs(problem: Problem) -> tuple[int, ...]:
    """The option of each model: least loss, then least cost."""
    where = [(m, i) for m, options in enumerate(problem.models) for i in range(len(options))]
    options = [problem.models[m][i] for m, i in where]
    count, devices = len(options), problem.devices
    overlays = sorted({option.overlay for option in options if option.overlay is not None})
    cost_at, watts_at, overlay_at = count, count + devices, count + 2 * devices
    columns = overlay_at + len(overlays)
    rows = _Rows()
    for m in range(len(problem.models)):
        rows.add([(x, 1.0) for x, (of, _) in enumerate(where) if of == m], 1.0, 1.0)
    for resource, capacity in enumerate(problem.capacity):
        terms = [(x, a) for x, option in enumerate(options) for r, a in option.uses if r == resource]
        if resource == problem.power:
            terms += [(watts_at + d, 1.0) for d in range(devices)]
        if terms and np.isfinite(capacity):
            rows.add(terms, -np.inf, capacity)
    for x, option in enumerate(options):
        rows.add([(cost_at + option.device, 1.0), (x, -option.hold_cost)], 0.0, np.inf)
        rows.add([(watts_at + option.device, 1.0), (x, -option.hold_w)], 0.0, np.inf)
        if option.overlay is not None:
            rows.add([(overlay_at + overlays.index(option.overlay), 1.0), (x, -1.0)], 0.0, np.inf)
    for device in {device for device, _ in overlays}:
        terms = [(overlay_at + o, 1.0) for o, (of, _) in enumerate(overlays) if of == device]
        rows.add(terms, -np.inf, 1.0)
    for (x, one), (y, other) in itertools.permutations(enumerate(options), 2):
        if where[x][0] != where[y][0] and _makes_late(one, other):
            rows.add([(x, 1.0), (y, 1.0)], -np.inf, 1.0)
    loss = np.array([option.loss / LOSS for option in options] + [0.0] * (columns - count))
    cost = np.array([option.cost for option in options] + [0.0] * (columns - count))
    cost[cost_at:watts_at] = 1.0
    integral = np.array([1] * count + [0] * (2 * devices) + [1] * len(overlays))
    bounds = Bounds(0.0, np.array([1.0] * count + [np.inf] * (2 * devices) + [1.0] * len(overlays)))
    first = _run(loss, rows, columns, integral, bounds)
    least = sum(option.loss for x, option in enumerate(options) if first[x] > 0.5)
    rows.add([(x, option.loss / LOSS) for x, option in enumerate(options)], -np.inf, least / LOSS)
    second = _run(cost, rows, columns, integral, bounds)
    return tuple(i for x, (_, i) in enumerate(where) if second[x] > 0.5)


def _makes_late(one: Option, other: Option) -> bool:
    """Whether a run of ``one`` lasts longer than ``other`` can wait, on a device that both use."""
    return any(
        makes > bears for device, makes, _ in one.waits for at, _, bears in other.waits if at == device
    )


def _run(objective: Any, rows: _Rows, columns: int, integral: Any, bounds: Bounds) -> Any:
    found = milp(
        objective,
        constraints=rows.constraint(columns),
        integrality=integral,
        bounds=bounds,
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, found.message
    return found.x
