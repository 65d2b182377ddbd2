"""Models, their options and what these share: plain numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SLACK = 1e-9  # of a capacity: sums of floats end beside it
EPSILON = 1e-9  # of a cost: less is no difference


class Option(NamedTuple):
    """One way to run a model.

    ``uses``: (resource, amount) pairs. ``device``: whose holding ``hold_cost`` and ``hold_w`` are, which all options
    there share (the largest counts). ``overlay``: (its device, which), the only one there. ``waits``: where runs queue,
    (device, how long it makes others wait, how long it can wait for another).
    """

    loss: int
    cost: float
    uses: tuple[tuple[int, float], ...] = ()
    device: int = -1
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


def value_of(problem: Problem, choice: Sequence[int]) -> tuple[int, float]:
    """Loss and cost of a choice; ValueError when it does not fit."""
    taken = Taken(problem)
    for options, index in zip(problem.models, choice, strict=True):
        if not taken.fits(options[index]):
            raise ValueError(f"option {index} does not fit")
        taken.take(options[index])
    return taken.loss, taken.cost


Before = tuple[float, float, "int | None", tuple[tuple[float, float], ...]]


class Taken:
    """What the options taken so far use."""

    def __init__(self, problem: Problem) -> None:
        self.power = problem.power
        self.left = [c + SLACK * max(1.0, abs(c)) for c in problem.capacity]
        self.hold_cost = [0.0] * (problem.devices + 1)  # the last for options without one
        self.hold_w = [0.0] * (problem.devices + 1)  # the last for options without one
        self.overlay: list[int | None] = [None] * (problem.devices + 1)  # the last for options without one
        self.longest = [0.0] * (problem.devices + 1)  # that an option makes others wait
        self.shortest = [math.inf] * (problem.devices + 1)  # that an option can wait
        self.loss, self.cost = 0, 0.0

    def copy(self) -> Taken:
        """The same, to go on with."""
        new = Taken.__new__(Taken)
        new.power, new.loss, new.cost = self.power, self.loss, self.cost
        new.left, new.overlay = self.left.copy(), self.overlay.copy()
        new.hold_cost, new.hold_w = self.hold_cost.copy(), self.hold_w.copy()
        new.longest, new.shortest = self.longest.copy(), self.shortest.copy()
        return new

    def fits(self, option: Option) -> bool:
        """Hot: tens of thousands of times a plan."""
        _, _, uses, device, _, hold_w, overlay, waits = option
        left, power = self.left, self.power
        for resource, amount in uses:
            if amount > left[resource]:
                return False
        if power is not None and hold_w > self.hold_w[device]:
            more_w = hold_w - self.hold_w[device]
            for resource, amount in uses:
                if resource == power:
                    more_w += amount
            if more_w > left[power]:
                return False
        if overlay is not None and self.overlay[device] not in (None, overlay[1]):
            return False
        for where, makes, bears in waits:  # noqa: SIM110 (all() takes twice as long)
            if self.longest[where] > bears or makes > self.shortest[where]:
                return False
        return True

    def take(self, option: Option) -> Before:
        """What ``undo`` needs to take it back, last in first out."""
        loss, cost, uses, device, hold_cost, hold_w, overlay, waits = option
        left, longest, shortest = self.left, self.longest, self.shortest
        before_waits: tuple[tuple[float, float], ...] = ()
        cost_before, w_before = self.hold_cost[device], self.hold_w[device]
        overlay_before = self.overlay[device]
        for resource, amount in uses:
            left[resource] -= amount
        if hold_w > w_before:
            if self.power is not None:
                left[self.power] -= hold_w - w_before
            self.hold_w[device] = hold_w
        if hold_cost > cost_before:
            self.cost += hold_cost - cost_before
            self.hold_cost[device] = hold_cost
        if overlay is not None:
            self.overlay[device] = overlay[1]
        for where, makes, bears in waits:
            before_waits += ((longest[where], shortest[where]),)
            longest[where], shortest[where] = max(longest[where], makes), min(shortest[where], bears)
        self.loss += loss
        self.cost += cost
        return cost_before, w_before, overlay_before, before_waits

    def undo(self, option: Option, before: Before) -> None:
        loss, cost, uses, device, _, _, _, waits = option
        hold_cost, hold_w, overlay, before_waits = before
        for resource, amount in uses:
            self.left[resource] += amount
        if self.power is not None:
            self.left[self.power] += self.hold_w[device] - hold_w
        self.cost -= cost + self.hold_cost[device] - hold_cost
        self.loss -= loss
        self.hold_cost[device], self.hold_w[device], self.overlay[device] = hold_cost, hold_w, overlay
        for (where, _, _), (longest, shortest) in zip(waits, before_waits, strict=True):
            self.longest[where], self.shortest[where] = longest, shortest

    def worth(self, option: Option) -> tuple[int, float]:
        """What taking it would add."""
        return option.loss, option.cost + max(0.0, option.hold_cost - self.hold_cost[option.device])


class Crowd:
    """What the options of all models use together."""

    def __init__(self, problem: Problem, choice: Sequence[int]) -> None:
        self._problem = problem
        self._options = [options[index] for options, index in zip(problem.models, choice, strict=True)]
        self._all = Taken(problem)
        self._there: list[list[int]] = [[] for _ in range(problem.devices + 1)]
        for model, option in enumerate(self._options):
            self._all.take(option)
            for device in _devices(option):
                self._there[device].append(model)

    def replace(self, model: int, option: Option) -> None:
        """The model takes another one."""
        self._all = self.but(model)
        for device in _devices(self._options[model]):
            self._there[device].remove(model)
        for device in _devices(option):
            self._there[device].append(model)
        self._options[model] = option
        self._all.take(option)

    def but(self, model: int) -> Taken:
        """What the others use."""
        option, taken = self._options[model], self._all.copy()
        for resource, amount in option.uses:
            taken.left[resource] += amount
        taken.loss -= option.loss
        taken.cost -= option.cost
        for device in _devices(option):
            others = [self._options[other] for other in self._there[device] if other != model]
            held = [other for other in others if other.device == device]
            hold_cost = max((other.hold_cost for other in held), default=0.0)
            hold_w = max((other.hold_w for other in held), default=0.0)
            taken.cost -= taken.hold_cost[device] - hold_cost
            if taken.power is not None:
                taken.left[taken.power] += taken.hold_w[device] - hold_w
            taken.hold_cost[device], taken.hold_w[device] = hold_cost, hold_w
            overlays = [other.overlay[1] for other in held if other.overlay is not None]
            taken.overlay[device] = overlays[0] if overlays else None
            waits = [wait for other in others for wait in other.waits if wait[0] == device]
            taken.longest[device] = max((makes for _, makes, _ in waits), default=0.0)
            taken.shortest[device] = min((bears for _, _, bears in waits), default=math.inf)
        return taken


def _devices(option: Option) -> set[int]:
    return {option.device, *(device for device, _, _ in option.waits)}
