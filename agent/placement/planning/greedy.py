"""Good choices quickly: greed, then replacements as long as they help. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.placement.planning.problem import EPSILON, Crowd, Problem, Taken

MOST = 20_000  # steps of replacing single options
SINGLE = 8  # steps that leaving one model out takes

Value = tuple[int, float]


def greedy(problem: Problem, wanted: Sequence[int | None] = ()) -> tuple[int, ...]:
    """The models with most to lose first, each its wanted option if that fits, else the best that does."""
    taken = Taken(problem)
    choice = [0] * len(problem.models)
    for model in heaviest_first(problem):
        choice[model] = _best(problem, taken, model, wanted[model] if wanted else None)
        taken.take(problem.models[model][choice[model]])
    return tuple(choice)


def heaviest_first(problem: Problem) -> list[int]:
    return sorted(range(len(problem.models)), key=lambda m: -max(option.loss for option in problem.models[m]))


def settled(problem: Problem, choice: tuple[int, ...]) -> tuple[int, ...]:
    """``choice`` with one model's option after another replaced as long as that helps."""
    search = _Local(problem, list(choice), MOST)
    search.single()
    return tuple(search.choice)


def pushed(problem: Problem, choice: tuple[int, ...], most: int) -> tuple[int, ...]:
    """``choice`` with options replaced as long as that helps and ``most`` steps last: one model's, then also those of
    models that it pushes aside, or of all on one device."""
    search = _Local(problem, list(choice), most)
    while search.single() or search.pushing():
        pass
    return tuple(search.choice)


class _Local:
    def __init__(self, problem: Problem, choice: list[int], most: int) -> None:
        self.problem, self.choice, self._left = problem, choice, most
        self._order, self._empty = heaviest_first(problem), Taken(problem)

    def single(self) -> bool:
        """Replace single models' options until none helps; whether one did."""
        models, helped, better = self.problem.models, False, True
        crowd = Crowd(self.problem, self.choice)
        while better and self._left > 0:
            better = False
            for model, options in enumerate(models):
                self._left -= SINGLE + len(options)
                others = crowd.but(model)
                found = _best(self.problem, others, model, None)
                if _less(others.worth(options[found]), others.worth(options[self.choice[model]])):
                    crowd.replace(model, options[found])
                    self.choice[model], better, helped = found, True, True
        return helped

    def pushing(self) -> bool:
        """The first of the replacements that move several models and help; whether there was one."""
        now = _value(self.problem, self.choice)
        for model, option, device in self._pushes():
            if self._left <= 0:
                return False
            choice, value = self._rebuilt(model, option, device)
            if _less(value, now):
                self.choice = choice
                return True
        return False

    def _pushes(self) -> Iterator[tuple[int, int, int]]:
        """(model, its new option, -1) and (-1, -1, the device that is left)."""
        for device in range(self.problem.devices):
            yield -1, -1, device
        for model in self._order:
            now = self.problem.models[model][self.choice[model]]
            for index, option in enumerate(self.problem.models[model]):
                better = (option.loss, option.cost) < (now.loss, now.cost + now.hold_cost)
                if better and self._empty.fits(option):
                    yield model, index, -1

    def _rebuilt(self, model: int, option: int, device: int) -> tuple[list[int], Value]:
        """The choice with the model's option first, and the others' as they are where they fit still."""
        problem, taken = self.problem, self._empty.copy()
        choice = list(self.choice)
        if model >= 0:
            choice[model] = option
            taken.take(problem.models[model][option])
        for other in self._order:
            if other == model:
                continue
            kept = problem.models[other][choice[other]]
            self._left -= 1
            if (kept.device == device and device >= 0) or not taken.fits(kept):
                self._left -= len(problem.models[other])
                choice[other] = _best(problem, taken, other, None, device)
            taken.take(problem.models[other][choice[other]])
        return choice, (taken.loss, taken.cost)


def _best(problem: Problem, taken: Taken, model: int, wanted: int | None, but: int = -2) -> int:
    """Of what fits still, on any device but one."""
    options = problem.models[model]
    if wanted is not None and taken.fits(options[wanted]):
        return wanted
    best, found = (1 << 62, 0.0), len(options) - 1
    for index, option in enumerate(options):
        if option[:2] < best and option.device != but and taken.fits(option):
            worth = taken.worth(option)
            if worth < best:
                best, found = worth, index
    return found


def _value(problem: Problem, choice: Sequence[int]) -> Value:
    taken = Taken(problem)
    for options, index in zip(problem.models, choice, strict=True):
        taken.take(options[index])
    return taken.loss, taken.cost


def _less(one: Value, other: Value) -> bool:
    return one[0] < other[0] or (one[0] == other[0] and one[1] < other[1] - EPSILON)
