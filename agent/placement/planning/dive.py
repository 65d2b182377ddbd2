"""Depth first through the options of models, where the bounds stay as they are. Pure."""

from __future__ import annotations

from collections.abc import Callable

from agent.placement.planning.problem import Problem, Taken
from agent.placement.planning.usage import ALL, Kept


class Dive:
    """Tries what is kept of each model's options. ``goal``: a value that a choice must be below, asked again and again;
    ``found``: told a choice and its value; ``base``: the bound without any model; ``spare``, ``slack``: what may be
    lost beyond the models' least, and by which the reduced loss may grow; ``missing``: bits that some option must have.
    After ``run``: ``tried``, how many options."""

    def __init__(
        self,
        problem: Problem,
        kept: Kept,
        by_cost: bool,
        goal: Callable[[], float],
        found: Callable[[tuple[int, ...], float], None],
    ) -> None:
        self._order = sorted(range(len(kept)), key=lambda m: (-_regret(kept, m), m))
        self._options = [kept[m] for m in self._order]
        self._taken, self._by_cost, self._goal, self._found = Taken(problem), by_cost, goal, found
        count = len(kept)
        self._choice = [0] * count
        # Of the models to come: the least reduced value, the least value, the bits that they can have.
        self._beyond, self._plain, self._able = [0.0] * (count + 1), [0.0] * (count + 1), [0] * (count + 1)
        for k in range(count - 1, -1, -1):
            options = self._options[k]
            self._beyond[k] = self._beyond[k + 1] + options[0][0]
            self._plain[k] = self._plain[k + 1] + min([item[3].value for item in options])
            self._able[k] = self._able[k + 1]
            for item in options:
                self._able[k] |= item[2]
        self.tried = 0

    def run(self, base: float, spare: int, slack: float, missing: int, most: float) -> bool:
        """False when ``most`` options were not enough."""
        self._most = most
        return self._descend(0, base, 0.0, spare, slack, missing)

    def _descend(self, k: int, reduced: float, value: float, spare: int, slack: float, missing: int) -> bool:
        if k == len(self._order):
            self._found(tuple(self._choice), value)
            return True
        if self._hopeless(k, reduced, slack):
            return True
        taken, by_cost, beyond, plain = self._taken, self._by_cost, self._beyond[k + 1], self._plain[k + 1]
        hold_cost, model, never = taken.hold_cost, self._order[k], ~self._able[k + 1]
        for priced, loses, bit, entry in self._options[k]:
            goal = self._goal()
            if reduced + priced + beyond >= goal:
                return True
            self.tried += 1
            if self.tried > self._most:
                return False
            option, more = entry.option, value + entry.value
            if by_cost and option.hold_cost > hold_cost[option.device]:
                more += option.hold_cost - hold_cost[option.device]
            if more + plain >= goal or entry.extra > spare or loses >= slack or missing & ~bit & never:
                continue
            if not taken.fits(option):
                continue
            self._choice[model] = entry.at
            before = taken.take(option)
            whole = self._descend(
                k + 1, reduced + priced, more, spare - entry.extra, slack - loses, missing & ~bit
            )
            taken.undo(option, before)
            if not whole:
                return False
        return True

    def _hopeless(self, k: int, reduced: float, slack: float) -> bool:
        """Whether the best that fits of each model to come is not good enough."""
        goal, fits, beyond = self._goal(), self._taken.fits, self._beyond
        for j in range(k, len(self._order)):
            for priced, loses, _, entry in self._options[j]:
                if loses < slack and fits(entry.option):
                    reduced += priced
                    break
            else:
                return True
            if reduced + beyond[j + 1] >= goal:
                return True
        return False


def _regret(kept: Kept, model: int) -> float:
    """What the second best costs more than the best."""
    options = kept[model]
    return options[1][0] - options[0][0] if len(options) > 1 else ALL
