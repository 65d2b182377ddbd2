"""Branch and bound below Lagrangian bounds, the most promising part first. Pure.

First it is decided which devices are in use, under which overlays; where the models' best would make each other late,
how long runs there may be at most; then each model's option. What takes long is split by what holds a device, or by a
model. A bound on what models cost: each takes its best option, where what an option uses of a resource is charged at
that resource's price (its Lagrangian multiplier; Fisher, Management Science 1981). Good prices are found by subgradient
steps with Polyak's step size. Where the least cost is searched, prices under which too much would be lost rule out as
well.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from agent.placement.planning.dive import Dive
from agent.placement.planning.greedy import settled
from agent.placement.planning.problem import EPSILON, Problem, value_of
from agent.placement.planning.relax import Entry, Prices, Row, entries_of, reduced, relaxed
from agent.placement.planning.usage import (
    ALL,
    DeviceSetting,
    Kept,
    Split,
    allowed,
    bits,
    forced,
    held_split,
    late_split,
    needs,
    settings_of,
)

STEPS, FEWER_STEPS = 30, 10  # of the subgradient method: for the whole problem, for a part
QUOTA = 400  # options that are tried in a part before it is split
SHARE = 0.1  # of the gap that a split by holding must close at least
# What takes how long, as a multiple of trying an option: a better choice, a part, a combination, an entry.
LEAF, A_PART, A_BOUND, AN_ENTRY = 100, 20, 4, 0.15


class Part(NamedTuple):
    """Entries by model, under devices' settings, with a lower bound and the prices to begin with (of cost, of loss).
    ``tie`` makes the order certain."""

    bound: float
    tie: int
    entries: Sequence[Sequence[Entry]]
    combination: tuple[DeviceSetting, ...]
    prices: Prices
    losing: Prices


class Search:
    """Looks for a better choice than ``best``. With ``most_loss`` None the least loss is searched, else the least cost
    of what loses no more than that. After ``run``: ``best``, ``tried`` (options), ``whole`` (False: cut short)."""

    def __init__(self, problem: Problem, best: tuple[int, ...], nodes: int, most_loss: int | None) -> None:
        self.problem, self.best, self.nodes = problem, best, nodes
        self.tried, self.whole = 0.0, True
        loss, cost = value_of(problem, best)
        self._by_cost = most_loss is not None
        self._value = cost if self._by_cost else float(loss)
        self._epsilon = EPSILON if self._by_cost else 0.5
        least = sum(min(option.loss for option in options) for options in problem.models)
        self._spare = 0 if most_loss is None else most_loss - least
        self._parts: list[Part] = []
        self._ties = 0

    def _goal(self) -> float:
        return self._value - self._epsilon

    def run(self) -> None:
        """Search."""
        if not self.problem.models:
            return
        entries = entries_of(self.problem, self._by_cost, self._spare)
        work = AN_ENTRY * sum(map(len, entries))
        self.tried += 5 * work
        steps = max(1, min(STEPS, int(self.nodes / (2 * work))))
        free = Prices([0.0] * (len(self.problem.capacity) + 1), self.problem.power)
        prices, bound, done = relaxed(_rows(entries), self._goal(), steps, free)
        self.tried += done * work
        if bound >= self._goal():
            return
        self._combine(entries, prices)
        while self._parts:
            part = heapq.heappop(self._parts)
            if part.bound >= self._goal():
                break
            if self.tried >= self.nodes or not self._within(part):
                self.whole = False
                break

    def _add(
        self,
        bound: float,
        entries: Sequence[Sequence[Entry]],
        combination: tuple[DeviceSetting, ...],
        prices: Prices,
        losing: Prices,
    ) -> None:
        if bound < self._goal() and all(entries):
            self._ties += 1
            heapq.heappush(self._parts, Part(bound, self._ties, entries, combination, prices, losing))

    def _combine(self, entries: Sequence[Sequence[Entry]], prices: Prices) -> None:
        """Every combination of the devices' settings that may allow something better becomes a part."""
        settings = settings_of(self.problem, entries)
        count, free = len(settings), prices._replace(of=[0.0] * len(prices.of))
        nowhere = [[entry for entry in options if entry.option.device < 0] for options in entries]
        lists = [
            [
                [
                    [e for e in options if e.option.device == device and allowed(e, setting)]
                    for options in entries
                ]
                for setting in of_device
            ]
            for device, of_device in enumerate(settings)
        ]
        tables = [[_least(there, prices) for there in of_device] for of_device in lists]
        rest = [_least(nowhere, prices)]  # on the devices to come
        for table in reversed(tables):
            rest.append([min(column) for column in zip(rest[-1], *table, strict=True)])
        rest.reverse()

        def extend(device: int, so_far: list[float], base: float, chosen: tuple[int, ...]) -> None:
            self.tried += A_BOUND
            bound = base + sum(map(min, so_far, rest[device]))
            if bound >= self._goal():
                return
            if device == count:
                parts = [nowhere, *(of[at] for of, at in zip(lists, chosen, strict=True))]
                together = [[e for there in of_model for e in there] for of_model in zip(*parts, strict=True)]
                combination = tuple(of[at] for of, at in zip(settings, chosen, strict=True))
                self._add(bound, together, combination, prices, free)
                return
            for at, (setting, row) in enumerate(zip(settings[device], tables[device], strict=True)):
                held = setting.held + prices.power * setting.held_power
                extend(device + 1, list(map(min, so_far, row)), base + held, (*chosen, at))

        extend(0, rest[-1], -prices.total, ())

    def _within(self, part: Part) -> bool:
        """Search a part, or split it; False when the nodes are used up."""
        _, _, entries, combination, prices, losing = part
        work = AN_ENTRY * sum(map(len, entries))
        self.tried += A_PART + 2 * work
        prices, bound, done = relaxed(_rows(entries), self._goal(), FEWER_STEPS, prices, combination)
        self.tried += done * work
        if bound >= self._goal():
            return True
        slack = 0.5
        if self._spare:
            rows = [[(float(entry.extra), entry.plain) for entry in options] for options in entries]
            free = [setting._replace(held=0.0) for setting in combination]
            losing, least, done = relaxed(rows, self._spare + 0.5, FEWER_STEPS, losing, free)
            self.tried += done * work
            slack += self._spare - least
        kept = _kept(
            entries, combination, prices, losing if self._spare else None, self._goal() - bound, slack
        )
        if not all(kept):
            return True
        part = Part(bound, 0, entries, combination, prices, losing)
        if bound + forced(kept, combination) >= self._goal():
            return True
        split = late_split(kept, len(combination))
        if split is not None:
            self._halve(part, kept, split)
            return True
        return self._dive(part, kept, slack)

    def _halve(self, part: Part, kept: Kept, split: Split) -> None:
        device, combination = split.device, part.combination
        for above, rise in ((False, split.less), (True, split.more)):
            if part.bound + rise >= self._goal():
                continue
            entries = [[item[3] for item in options if split.keeps(item[3], above)] for options in kept]
            setting = combination[device]
            if above and split.by_hold:
                setting = setting._replace(heavier=split.at)
            elif above:
                setting = setting._replace(over=split.at)
            there = [entry for options in entries for entry in options if entry.option.device == device]
            held = setting.with_held(there)
            if held is not None:
                now = (*combination[:device], held, *combination[device + 1 :])
                self._add(part.bound + rise, entries, now, part.prices, part.losing)

    def _dive(self, part: Part, kept: Kept, slack: float) -> bool:
        """Try options; what takes long when the least cost is searched is split instead."""
        combination, prices = part.combination, part.prices
        dive = Dive(self.problem, kept, self._by_cost, self._goal, self._found)
        left = self.nodes - self.tried
        most = min(left, QUOTA) if self._by_cost else left
        base = sum(s.held + prices.power * s.held_power for s in combination) - prices.total
        whole = dive.run(base, self._spare, slack, needs(combination), most)
        self.tried += dive.tried
        if whole or self.tried >= self.nodes:
            return whole
        split = held_split(kept, combination, prices.power, SHARE * (self._goal() - part.bound))
        if split is not None:
            self._halve(part, kept, split)
            return True
        regrets = [options[1][0] - options[0][0] if len(options) > 1 else -1.0 for options in kept]
        model = regrets.index(max(regrets))
        for few, rise in ((kept[model][:1], 0.0), (kept[model][1:], regrets[model])):
            entries = [[item[3] for item in (few if m == model else kept[m])] for m in range(len(kept))]
            self._add(part.bound + rise, entries, combination, prices, part.losing)
        return True

    def _found(self, choice: tuple[int, ...], value: float) -> None:
        """A better choice, which replacing single options may make better still."""
        self.best, self._value = choice, value
        self.tried += LEAF
        better = settled(self.problem, choice)
        if better != choice:
            loss, cost = value_of(self.problem, better)
            if (cost if self._by_cost else loss) < value:
                self.best, self._value = better, cost if self._by_cost else float(loss)


def _rows(entries: Sequence[Sequence[Entry]]) -> list[list[Row]]:
    return [[(entry.value, entry.uses) for entry in options] for options in entries]


def _least(entries: Sequence[Sequence[Entry]], prices: Prices) -> list[float]:
    of = prices.of
    return [min([reduced(e.value, e.uses, of) for e in options], default=ALL) for options in entries]


def _kept(
    entries: Sequence[Sequence[Entry]],
    combination: Sequence[DeviceSetting],
    prices: Prices,
    losing: Prices | None,
    room: float,
    slack: float,
) -> Kept:
    """Without entries whose reduced value is over the model's best by ``room``, or whose reduced loss by ``slack``."""
    kept = []
    for options in entries:
        values = [reduced(entry.value, entry.uses, prices.of) for entry in options]
        losses = [0.0] * len(options)
        if losing is not None:
            losses = [reduced(float(entry.extra), entry.plain, losing.of) for entry in options]
        least, lost = min(values), min(losses)
        found = [
            (value, entry.at, loss - lost, entry)
            for value, loss, entry in zip(values, losses, options, strict=True)
            if value - least < room and loss - lost < slack
        ]
        found.sort(key=_rank)
        kept.append([(value, loss, bits(entry, combination), entry) for value, _, loss, entry in found])
    return kept


def _rank(item: tuple[float, int, float, Entry]) -> tuple[float, int]:
    return item[:2]
