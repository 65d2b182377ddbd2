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

    def take(self, option: Option) -> tuple[float, float, int | None, tuple[tuple[float, float], ...]]:
        """What ``undo`` needs to take it back, last in first out."""
        device, overlay = option.device, None if option.overlay is None else self.overlay[option.overlay[0]]
        waits = tuple((self.longest[where], self.shortest[where]) for where, _, _ in option.waits)
        before = self.hold_cost[device], self.hold_w[device], overlay, waits
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
        return before

    def undo(
        self, option: Option, before: tuple[float, float, int | None, tuple[tuple[float, float], ...]]
    ) -> None:
        device = option.device
        hold_cost, hold_w, overlay, waits = before
        for resource, amount in option.uses:
            self.left[resource] += amount
        if self.power is not None:
            self.left[self.power] += self.hold_w[device] - hold_w
        self.cost -= option.cost + self.hold_cost[device] - hold_cost
        self.loss -= option.loss
        self.hold_cost[device], self.hold_w[device] = hold_cost, hold_w
        if option.overlay is not None:
            self.overlay[option.overlay[0]] = overlay
        for (where, _, _), (longest, shortest) in zip(option.waits, waits, strict=True):
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
