"""Which option each model takes, so that together they fit: the best that can be found within bounds. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.placement.problem import EPSILON, Problem, Taken, value_of
from agent.placement.search import Search

NODES = 20_000
SWAPS = 20_000  # steps of improving a choice by single replacements


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
    best, spent, whole = start, 0.0, True
    loss, _ = value_of(problem, best)
    if loss > sum(min(option.loss for option in options) for options in problem.models):
        search = Search(problem, best, nodes, None)
        search.run()
        best, spent, whole = search.best, search.tried, search.whole
        best = best if best == start else _improved(problem, best)
        loss, _ = value_of(problem, best)
    search = Search(problem, best, round(nodes - spent), loss)
    search.run()
    loss, cost = value_of(problem, search.best)
    return Solution(search.best, loss, cost, round(spent + search.tried), whole and search.whole)


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
