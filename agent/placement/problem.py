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
    there share (the largest counts). ``overlay``: (device, which), the only one there. ``waits``: (device, how long it
    makes others wait, how long it can wait for another) where runs queue.
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
