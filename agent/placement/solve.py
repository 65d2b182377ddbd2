"""Which option each model takes, so that together they fit: branch and bound over plain numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

NODES = 20_000
SWAPS = 20_000  # steps of improving a choice by single replacements
SLACK = 1e-9  # of a capacity: sums of floats end beside it
EPSILON = 1e-9  # of a cost: less is no difference


class Option(NamedTuple):
    """One way to run a model.

    ``uses``: (resource, amount) pairs. ``device``: whose holding ``hold_cost`` and ``hold_w`` are, which all options
    there share (the largest counts). ``overlay``: (device, which), the only one there. ``waits``: (device, how long it
    makes others wait, how long it can wait for another) where runs queue.
    """

    loss: int
    cost: float
    uses: tuple[tuple[int, float], ...] = ()
    device: int = 0
    hold_cost: float = 0.0
    hold_w: float = 0.0
    overlay: tuple[int, int] | None = None
    waits: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """``models``: the options of each, of which one always fits whatever the others take (shedding it).
    ``capacity``: of each resource; holding counts against that of ``power``. ``devices``: how many."""

    models: tuple[tuple[Option, ...], ...]
    capacity: tuple[float, ...]
    devices: int
    power: int | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """The option of each model. ``nodes``: options tried; ``optimal``: False when the search was cut short."""

    choice: tuple[int, ...]
    loss: int
    cost: float
    nodes: int
    optimal: bool


def solve(problem: Problem, nodes: int = NODES) -> Solution:
    """Least loss, then least cost (the holding of devices included). ``nodes`` bounds the options that are tried."""
    start = _improved(problem, _greedy(problem))
    loss, _ = value_of(problem, start)
    least = sum(min(o.loss for o in options) for options in problem.models)
    spent, whole = 0, True
    best = start
    if loss > least:
        search = _Search(problem, best, nodes, None)
        best, spent, whole = search.run()
        best = _improved(problem, best) if best != start else best
        loss, _ = value_of(problem, best)
    search = _Search(problem, best, nodes - spent, loss)
    best, more, proved = search.run()
    loss, cost = value_of(problem, best)
    return Solution(best, loss, cost, spent + more, whole and proved)


def value_of(problem: Problem, choice: Sequence[int]) -> tuple[int, float]:
    """Loss and cost of a choice; ValueError when it does not fit."""
    taken = Taken(problem)
    for options, index in zip(problem.models, choice, strict=True):
        if not taken.fits(options[index]):
            raise ValueError(f"option {index} does not fit")
        taken.take(options[index])
    return taken.loss, taken.cost


class Taken:
    """What the options taken so far use."""

    def __init__(self, problem: Problem) -> None:
        self.power = problem.power
        self.left = [c + SLACK * max(1.0, abs(c)) for c in problem.capacity]
        self.hold_cost = [0.0] * problem.devices
        self.hold_w = [0.0] * problem.devices
        self.overlay: list[int | None] = [None] * problem.devices
        self.longest = [0.0] * problem.devices  # that an option makes others wait
        self.shortest = [math.inf] * problem.devices  # that an option can wait
        self.loss, self.cost = 0, 0.0

    def fits(self, option: Option) -> bool:
        power_w = 0.0
        if self.power is not None and option.hold_w > self.hold_w[option.device]:
            power_w = option.hold_w - self.hold_w[option.device]
            if power_w > self.left[self.power]:
                return False
        for resource, amount in option.uses:
            if amount + (power_w if resource == self.power else 0.0) > self.left[resource]:
                return False
        if option.overlay is not None:
            device, which = option.overlay
            if self.overlay[device] not in (None, which):
                return False
        for device, makes, bears in option.waits:
            if self.longest[device] > bears or makes > self.shortest[device]:
                return False
        return True

    def take(self, option: Option) -> None:
        device = option.device
        for resource, amount in option.uses:
            self.left[resource] -= amount
        if option.hold_w > self.hold_w[device]:
            if self.power is not None:
                self.left[self.power] -= option.hold_w - self.hold_w[device]
            self.hold_w[device] = option.hold_w
        if option.hold_cost > self.hold_cost[device]:
            self.cost += option.hold_cost - self.hold_cost[device]
            self.hold_cost[device] = option.hold_cost
        if option.overlay is not None:
            self.overlay[option.overlay[0]] = option.overlay[1]
        for where, makes, bears in option.waits:
            self.longest[where] = max(self.longest[where], makes)
            self.shortest[where] = min(self.shortest[where], bears)
        self.loss += option.loss
        self.cost += option.cost

    def worth(self, option: Option) -> tuple[int, float]:
        """What taking it would add."""
        return option.loss, option.cost + max(0.0, option.hold_cost - self.hold_cost[option.device])


def _greedy(problem: Problem) -> tuple[int, ...]:
    """The models with most to lose first, each the best that fits still."""
    taken = Taken(problem)
    choice = [0] * len(problem.models)
    for index in sorted(range(len(choice)), key=lambda i: -max(o.loss for o in problem.models[i])):
        fitting = [(taken.worth(o), i) for i, o in enumerate(problem.models[index]) if taken.fits(o)]
        _, choice[index] = min(fitting)
        taken.take(problem.models[index][choice[index]])
    return tuple(choice)


def _improved(problem: Problem, choice: tuple[int, ...]) -> tuple[int, ...]:
    """``choice`` with one model's option after another replaced, as long as that helps and SWAPS last."""
    best, steps, better = list(choice), 0, True
    while better:
        better = False
        for index, options in enumerate(problem.models):
            steps += len(best) + len(options)
            if steps > SWAPS:
                return tuple(best)
            others = Taken(problem)
            for other, taken in enumerate(best):
                if other != index:
                    others.take(problem.models[other][taken])
            now = others.worth(options[best[index]])
            (loss, cost), found = min((others.worth(o), i) for i, o in enumerate(options) if others.fits(o))
            if loss < now[0] or (loss == now[0] and cost < now[1] - EPSILON):
                best[index], better = found, True
    return tuple(best)


class _Search:
    """Depth first. With ``loss`` None the loss is minimised, else the cost of what loses no more than that."""

    def __init__(self, problem: Problem, best: tuple[int, ...], nodes: int, loss: int | None) -> None:
        self.problem, self.best, self.nodes, self.max_loss = problem, best, nodes, loss
        value = value_of(problem, best)
        self.value = float(value[0]) if loss is None else value[1]
        self.epsilon = 0.5 if loss is None else EPSILON

    def run(self) -> tuple[tuple[int, ...], int, bool]:
        """The best choice, the options tried, and whether the search came to its end."""
        problem, max_loss, epsilon = self.problem, self.max_loss, self.epsilon
        models, count = problem.models, len(problem.models)
        if not count:
            return (), 0, True
        least_loss = [min(o.loss for o in options) for options in models]
        spare = 0 if max_loss is None else max_loss - sum(least_loss)
        kept = [
            [
                (float(o.loss) if max_loss is None else o.cost, o.loss - least_loss[m], i, o)
                for i, o in enumerate(options)
                if max_loss is None or o.loss - least_loss[m] <= spare
            ]
            for m, options in enumerate(models)
        ]
        for options in kept:
            options.sort(key=lambda entry: entry[:3])
        order = sorted(range(count), key=lambda m: (-max(o.loss for o in models[m]), -len(kept[m]), m))
        rest = [0.0] * (count + 1)
        for k in range(count - 1, -1, -1):
            rest[k] = rest[k + 1] + kept[order[k]][0][0]
        with_holding = max_loss is not None
        power = problem.power
        start = Taken(problem)
        left, hold_cost, hold_w = start.left, start.hold_cost, start.hold_w
        overlays, longest, shortest = start.overlay, start.longest, start.shortest
        choice = [0] * count
        best_value, best, tried, nodes = self.value, self.best, 0, self.nodes

        def descend(k: int, value: float, spare: int) -> bool:
            """False when the nodes are used up."""
            nonlocal best_value, best, tried
            if k == count:
                best_value, best = value, tuple(choice)
                return True
            m = order[k]
            beyond = rest[k + 1]
            for own, extra, index, option in kept[m]:
                if value + own + beyond >= best_value - epsilon:
                    break
                if extra > spare and with_holding:
                    continue
                tried += 1
                if tried > nodes:
                    return False
                d = option.device
                added = 0.0
                if with_holding and option.hold_cost > hold_cost[d]:
                    added = option.hold_cost - hold_cost[d]
                    if value + own + added + beyond >= best_value - epsilon:
                        continue
                if not start.fits(option):
                    continue
                saved = hold_cost[d], hold_w[d]
                for resource, amount in option.uses:
                    left[resource] -= amount
                if option.hold_w > hold_w[d]:
                    if power is not None:
                        left[power] -= option.hold_w - hold_w[d]
                    hold_w[d] = option.hold_w
                hold_cost[d] = max(hold_cost[d], option.hold_cost)
                before = None
                if option.overlay is not None:
                    where, which = option.overlay
                    before = overlays[where]
                    overlays[where] = which
                waits = [(w, longest[w], shortest[w]) for w, _, _ in option.waits]
                for w, makes, bears in option.waits:
                    longest[w] = max(longest[w], makes)
                    shortest[w] = min(shortest[w], bears)
                choice[m] = index
                goes_on = descend(k + 1, value + own + added, spare - extra)
                for w, long, short in waits:
                    longest[w], shortest[w] = long, short
                if option.overlay is not None:
                    overlays[option.overlay[0]] = before
                if power is not None:
                    left[power] += hold_w[d] - saved[1]
                hold_cost[d], hold_w[d] = saved
                for resource, amount in option.uses:
                    left[resource] += amount
                if not goes_on:
                    return False
            return True

        whole = descend(0, 0.0, spare)
        return best, tried, whole
