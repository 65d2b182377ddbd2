"""Which option each model takes, so that together they fit: the best that can be found within bounds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.placement.planning.greedy import greedy, pushed, settled
from agent.placement.planning.problem import Problem, value_of
from agent.placement.planning.search import Search

# For ten models with twelve candidates each: at most about 10 ms, which a look each second may take,
NODES = 1000
THOROUGH = 12_000  # and about 50 ms, for what happens now and then
PUSHES = 4000  # steps of looking for a good start


@dataclass(frozen=True, slots=True)
class Solution:
    """The option of each model. ``nodes``: options tried; ``optimal``: False when the search was cut short."""

    choice: tuple[int, ...]
    loss: int
    cost: float
    nodes: int
    optimal: bool


def solve(problem: Problem, nodes: int = NODES, wanted: Sequence[int | None] = ()) -> Solution:
    """Least loss, then least cost (the holding of devices included). ``nodes`` bounds the options that are tried;
    ``wanted``: of each model, an option that is likely (where it runs), which only makes the search shorter."""
    starts = [settled(problem, greedy(problem))]
    if any(option is not None for option in wanted):
        starts.append(settled(problem, greedy(problem, wanted)))
    best = pushed(problem, min(starts, key=lambda start: value_of(problem, start)), PUSHES)
    spent, whole = 0.0, True
    loss, _ = value_of(problem, best)
    if loss > sum(min(option.loss for option in options) for options in problem.models):
        search = Search(problem, best, nodes, None)
        search.run()
        best, spent, whole = search.best, search.tried, search.whole
        loss, _ = value_of(problem, best)
    search = Search(problem, best, round(nodes - spent), loss)
    search.run()
    loss, cost = value_of(problem, search.best)
    return Solution(search.best, loss, cost, round(spent + search.tried), whole and search.whole)
