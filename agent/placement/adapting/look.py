"""What run-time adaptation is told each second, what it remembers and what it answers. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.placement.adapting.bars import Bars
from agent.placement.adapting.rates import Load
from agent.placement.adapting.rental import Regret
from agent.placement.adapting.rest import Rest
from agent.placement.adapting.slowdown import Slowdown
from agent.placement.adapting.tail import Tail
from agent.placement.demand import Demand, Node, Plan
from agent.types import Candidate


@dataclass(frozen=True, slots=True)
class Seen:
    """What one model did since the last look that named it, zeros included: requests that arrived, runs on
    ``candidate`` that ended with the device seconds they took in all, and answers later than the budget's latency."""

    model: str
    candidate: Candidate
    requests: int
    runs: int
    run_s: float
    late: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """Once a second, and when something happens (then ``seen`` may be empty). ``now``: monotonic seconds; ``power_w``:
    the node's draw on average since the last look, None when no meter tells."""

    now: float
    seen: tuple[Seen, ...] = ()
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A model goes to ``candidate``; None: it is shed. ``trigger``: what made it now; ``reason``: why there."""

    model: str
    candidate: Candidate | None
    trigger: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """``plan``: where every model should be, for ``demands`` on ``node`` as they are seen. ``moves``: what is done now,
    in this order; a move takes the place of an earlier one of the model that is still under way. ``waits``: models that
    should be elsewhere but do not move yet: why."""

    plan: Plan
    moves: tuple[Move, ...]
    node: Node
    demands: tuple[Demand, ...]
    waits: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A move that was asked for and is not done yet. ``most``: the slowdown up to which it is worth going there;
    ``paid``: the model is well where it is, and moves for its energy only."""

    candidate: Candidate | None
    until: float
    most: float
    paid: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what it was made from, to be had again while nothing has changed. ``held``: the plan that leaves
    every model where it is; ``late``: models whose answers are late where they are, and would not be in ``plan``."""

    demands: tuple[Demand, ...]
    node: Node
    broken: frozenset[str]
    plan: Plan
    held: Plan
    late: frozenset[str]
    time: float


@dataclass(frozen=True, slots=True)
class State:
    """What ``step`` remembers; begins as ``State()``. Times are seconds of looks, which never go back."""

    clock: float | None = None  # the caller's at the last look
    time: float = 0.0
    counted: float = 0.0  # when requests were counted last
    moved: float = 0.0  # when a model was found elsewhere last
    loads: Mapping[str, Load] = field(default_factory=dict)  # by model
    slowdowns: Mapping[str, Slowdown] = field(default_factory=dict)  # by device
    rest: Rest = field(default_factory=Rest)
    tails: Mapping[str, Tail] = field(default_factory=dict)  # by model, where it is
    asked: Mapping[str, Asked] = field(default_factory=dict)  # by model
    bars: Bars = field(default_factory=dict)
    since: Mapping[str, tuple[Candidate | None, float]] = field(
        default_factory=dict
    )  # where a model is since when
    missing: Mapping[str, int] = field(
        default_factory=dict
    )  # looks in a row at which a model missed its budget
    lately: tuple[Mapping[str, float], float] = (
        {},
        0.0,
    )  # requests a second by model at the last look, its seconds
    regret: Regret = field(default_factory=Regret)
    told: tuple[tuple[Demand, ...], Node] | None = None  # by the caller, at the last look
    planned: Planned | None = None
