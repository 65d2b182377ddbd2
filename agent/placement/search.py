"""Branch and bound below Lagrangian bounds. Pure.

First the devices are decided (in use or not, which overlay, how long runs there may be at most), then each model's
option. A bound on what the models not yet decided cost: each takes its best option, where what an option uses of a
resource is charged at that resource's price (its Lagrangian multiplier; Fisher, Management Science 1981). Good prices
are found by subgradient steps with Polyak's step size.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.placement.greedy import settled
from agent.placement.problem import EPSILON, Problem, Taken, value_of
from agent.placement.relax import Entry, Prices, entries_of, priced, relaxed
from agent.placement.usage import DeviceSetting, allowed, settings_of

LEAF = 20
STEPS, FEWER_STEPS = 30, 10  # of the subgradient method: for the whole problem, for one combination
A_BOUND = 3  # what one combination of settings takes, as a multiple of trying an option
AN_ENTRY = 0.3  # what looking at an entry once takes


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

    @property
    def _goal(self) -> float:
        return self._value - self._epsilon

    def run(self) -> None:
        """Search."""
        if not self.problem.models:
            return
        entries = entries_of(self.problem, self._by_cost, self._spare)
        work = AN_ENTRY * sum(map(len, entries))
        steps = max(1, min(STEPS, int(self.nodes / (2 * work))))
        prices, bound = relaxed(self.problem, entries, self._goal, steps, None)
        self.tried += steps * work
        if bound >= self._goal:
            return
        settings = settings_of(self.problem, entries)
        for combination_bound, combination in self._combinations(entries, settings, prices):
            if combination_bound >= self._goal:
                break
            if self.tried >= self.nodes or not self._within(entries, combination, prices):
                self.whole = False
                break

    def _combinations(
        self, entries: Sequence[Sequence[Entry]], settings: Sequence[Sequence[DeviceSetting]], prices: Prices
    ) -> list[tuple[float, tuple[DeviceSetting, ...]]]:
        """Every device's setting with a lower bound of what they allow, the most promising first."""
        nowhere: list[float] = []
        tables: list[list[list[float]]] = [[[] for _ in of_device] for of_device in settings]
        for options in entries:
            reduced = [(prices.reduced(entry), entry) for entry in options]
            nowhere.append(min((r for r, entry in reduced if entry.option.device < 0), default=1e300))
            for device, (table, of_device) in enumerate(zip(tables, settings, strict=True)):
                there = [(r, entry) for r, entry in reduced if entry.option.device == device]
                for row, setting in zip(table, of_device, strict=True):
                    row.append(min((r for r, entry in there if allowed(entry, setting)), default=1e300))
        count = len(settings)
        rest = [nowhere]  # the least on the devices to come
        for table in reversed(tables):
            rest.append([min(column) for column in zip(rest[-1], *table, strict=True)])
        rest.reverse()
        found: list[tuple[float, tuple[DeviceSetting, ...]]] = []

        def extend(device: int, so_far: list[float], base: float, chosen: tuple[DeviceSetting, ...]) -> None:
            self.tried += A_BOUND
            bound = base + sum(map(min, so_far, rest[device]))
            if bound >= self._goal:
                return
            if device == count:
                found.append((bound, chosen))
                return
            for setting, row in zip(settings[device], tables[device], strict=True):
                held = setting.held + prices.power * setting.held_power
                extend(device + 1, list(map(min, so_far, row)), base + held, (*chosen, setting))

        extend(0, nowhere, -prices.total, ())
        found.sort(key=lambda item: item[0])
        return found

    def _within(
        self, entries: Sequence[Sequence[Entry]], combination: tuple[DeviceSetting, ...], prices: Prices
    ) -> bool:
        """Search with the devices' settings given; False when the nodes are used up."""
        chosen = [
            [e for e in options if e.option.device < 0 or allowed(e, combination[e.option.device])]
            for options in entries
        ]
        if not all(chosen):
            return True
        prices, bound = relaxed(self.problem, chosen, self._goal, FEWER_STEPS, prices, combination)
        self.tried += FEWER_STEPS * AN_ENTRY * sum(map(len, chosen))
        if bound >= self._goal:
            return True
        kept = priced(chosen, prices, self._goal - bound)
        self._order = sorted(range(len(kept)), key=lambda m: (-_regret(kept[m]), m))
        self._options = [kept[m] for m in self._order]
        count = len(kept)
        self._beyond, self._plain = [0.0] * (count + 1), [0.0] * (count + 1)
        for k in range(count - 1, -1, -1):
            self._beyond[k] = self._beyond[k + 1] + self._options[k][0][0]
            self._plain[k] = self._plain[k + 1] + min(entry.value for _, entry in self._options[k])
        self._choice = [0] * count
        self._taken = Taken(self.problem)
        start = bound - self._beyond[0]
        return self._descend(0, start, 0.0, self._spare)

    def _descend(self, k: int, reduced: float, value: float, spare: int) -> bool:
        """False when the nodes are used up."""
        if k == len(self._order):
            self._found(tuple(self._choice), value)
            return True
        if self._hopeless(k, reduced):
            return True
        taken, by_cost, beyond, plain = self._taken, self._by_cost, self._beyond[k + 1], self._plain[k + 1]
        hold_cost, model = taken.hold_cost, self._order[k]
        for priced_at, entry in self._options[k]:
            goal = self._value - self._epsilon
            if reduced + priced_at + beyond >= goal:
                return True
            self.tried += 1
            if self.tried > self.nodes:
                return False
            option, more = entry.option, value + entry.value
            if by_cost and option.hold_cost > hold_cost[option.device]:
                more += option.hold_cost - hold_cost[option.device]
            if more + plain >= goal or entry.extra > spare or not taken.fits(option):
                continue
            self._choice[model] = entry.at
            before = taken.take(option)
            goes_on = self._descend(k + 1, reduced + priced_at, more, spare - entry.extra)
            taken.undo(option, before)
            if not goes_on:
                return False
        return True

    def _hopeless(self, k: int, reduced: float) -> bool:
        """Whether the best that fits of each model to come is not good enough."""
        goal, fits, beyond = self._goal, self._taken.fits, self._beyond
        for j in range(k, len(self._order)):
            for priced_at, entry in self._options[j]:
                if fits(entry.option):
                    reduced += priced_at
                    break
            else:
                return True
            if reduced + beyond[j + 1] >= goal:
                return True
        return False

    def _found(self, choice: tuple[int, ...], value: float) -> None:
        """A better choice, which replacing single options may make better still."""
        self.best, self._value = choice, value
        self.tried += LEAF * len(choice)
        better = settled(self.problem, choice)
        if better != choice:
            loss, cost = value_of(self.problem, better)
            if (cost if self._by_cost else loss) < value:
                self.best, self._value = better, cost if self._by_cost else float(loss)


def _regret(options: Sequence[tuple[float, Entry]]) -> float:
    """What the second best costs more than the best."""
    return options[1][0] - options[0][0] if len(options) > 1 else 1e300
