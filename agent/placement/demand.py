"""What the planner is told: the models that share a node, and the node. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.types import Budget, Candidate, Measurement, Verdict


@dataclass(frozen=True, slots=True)
class Demand:
    """One model that shares the node. ``failed``: candidates that are out, with why; ``incumbent``: where it runs, None
    for a newcomer and for one that is shed. Of several measurements of a candidate the latest counts.

    ``rate_hz``: requests a second that are seen, which energy is counted at; None: the budget's. Whether a candidate is
    feasible always goes by the budget's rate, which is what the node promised.
    """

    model: str
    budget: Budget
    measurements: tuple[Measurement, ...]
    failed: tuple[Verdict, ...] = ()
    incumbent: Candidate | None = None
    instances: int = 1
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device now. ``parallel``: see ``DeviceInfo``. ``slowdown``: time of a run as a multiple of the profiled one
    (1: as profiled). ``lost``: why it does not answer; empty when it does."""

    id: str
    kind: Literal["cpu", "gpu", "fpga"]
    parallel: int = 1
    memory_mb: int | None = None
    slowdown: float = 1.0
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """The node now. ``rest_w``: its draw without any of the models, None without a meter; ``rest_sigma_w``: how
    uncertain that is. ``threads``: of each run on a CPU."""

    devices: tuple[DeviceState, ...]
    power_cap_w: float | None = None
    rest_w: float | None = None
    rest_sigma_w: float = 0.0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """One model's part of a plan. ``candidate`` None: it is shed, or (nothing of it is measured or left) has nowhere to
    run. ``missed``: what of its budget it does not get, in words; empty when all is met; ``lost``: how much that is of
    what the model weighs, in thousandths.

    A newcomer may get its budget at the cost of another's, of whatever priority, when that loses less in all: who
    admits newcomers compares with what the others had.
    """

    model: str
    candidate: Candidate | None
    measurement: Measurement | None
    verdicts: tuple[Verdict, ...]
    reason: str
    missed: str = ""
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Where every model runs. ``watts``: what the node draws at the budgets' rates, mean and mean + 1.64 sigma; None
    where an energy or the rest is not known. ``optimal``: False when the search was cut short."""

    placed: tuple[Placed, ...]
    watts: float | None
    watts_bound: float | None
    optimal: bool = True

    def of(self, model: str) -> Placed:
        """KeyError when the plan has no such model."""
        for placed in self.placed:
            if placed.model == model:
                return placed
        raise KeyError(model)
