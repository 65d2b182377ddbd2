"""Choose where all models of a node run, together. Pure: values in, a plan with every reason out; the order of inputs
does not matter.

Least weighted unmet load first, then least watts; see docs/placement.md for what each term is.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.placement.demand import Demand, Node, Plan
from agent.placement.planning.problem import Crowd
from agent.placement.planning.solve import NODES, Solution, solve
from agent.placement.planning.weigh import Setting, setting_of
from agent.placement.planning.words import in_words
from agent.types import Candidate

TIE = 0.05


def plan(demands: Sequence[Demand], node: Node, *, dwell_s: float = 600.0, nodes: int = NODES) -> Plan:
    """Where every model runs. ``dwell_s``: how long a placement is expected to last, over which the energy of a load is
    spread; ``nodes`` bounds the search.

    Models weigh 4^priority. Of that is lost nothing by a candidate that meets the budget, 0.26 to 0.5 by one that is
    late, more the later, 0.5 to 0.74 by one that is not accurate enough, all by shedding; 1 % less by shedding a
    newcomer (no incumbent). Never broken: the node's cap, memory, utilisation, one overlay on an FPGA. ValueError when
    two demands have one name.
    """
    setting = setting_of(demands, node, dwell_s)
    solution = _solved(setting, nodes)
    return in_words(setting, preferred(setting, solution.choice), solution.optimal)


def decided(demands: Sequence[Demand], node: Node, dwell_s: float, nodes: int) -> dict[str, Candidate | None]:
    """Where ``plan`` would run each model, without the words."""
    setting = setting_of(demands, node, dwell_s)
    choice = preferred(setting, _solved(setting, nodes).choice)
    ways = (model.way_of[index] for model, index in zip(setting.models, choice, strict=True))
    where = [None if way is None else way.m.candidate for way in ways]
    return dict(zip((model.demand.model for model in setting.models), where, strict=True))


def _solved(setting: Setting, nodes: int) -> Solution:
    """Begun with every model where it is."""
    wanted = []
    for model in setting.models:
        at = (
            i
            for i, way in enumerate(model.way_of)
            if way is not None and way.m.candidate == model.demand.incumbent
        )
        wanted.append(next(at, None))
    return solve(setting.problem, nodes, wanted)


def preferred(setting: Setting, choice: Sequence[int]) -> tuple[int, ...]:
    """``choice`` with newcomers' options replaced by more accurate ones that cost at most TIE more."""
    best, crowd = list(choice), Crowd(setting.problem, choice)
    for index, model in enumerate(setting.models):
        way = model.way_of[best[index]]
        if model.demand.incumbent is not None or way is None:
            continue
        others = crowd.but(index)
        loss, cost = others.worth(model.options[best[index]])
        tied = []
        for i, (option, other) in enumerate(zip(model.options, model.way_of, strict=True)):
            if other is None or option.loss != loss or not others.fits(option):
                continue
            _, more = others.worth(option)
            if i == best[index] or more <= cost * (1 + TIE):
                accuracy = -1.0 if other.m.accuracy is None else other.m.accuracy
                tied.append((-accuracy, more, str(other.m.candidate), i))
        if (found := min(tied)[-1]) != best[index]:
            best[index] = found
            crowd.replace(index, model.options[found])
    return tuple(best)
