"""What a joint placement costs under the truth of a board: the contract of the planner, written down a second time.

A placement is one candidate or None (shed) for each model. It is possible or not (a lost device, two overlays on one
FPGA, a device fuller than its bound, the node over its cap at the budgets' rates); it loses weighted service where a
budget is missed or a model is shed; and it draws watts at the rates that really come.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.placement.planning.limits import MAX_UTILISATION
from agent.types import Budget, Candidate, Measurement
from simulator.faults import Conditions
from simulator.profile import BoardProfile

LATE, MOST_LATE, SHED = 0.26, 0.5, 1.0  # of a model's weight, each second
MOST_EXCESS = 3.0  # times its bound, beyond which late is late
RARE = 0.01  # of a device: who uses it less makes nobody wait

Joint = tuple[Candidate | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A model as it is: ``run_s``: by candidate, at full clock; ``measurements``: what was profiled, for p99."""

    name: str
    budget: Budget
    measurements: dict[Candidate, Measurement]
    run_s: dict[Candidate, float]

    @property
    def weight(self) -> float:
        return float(4**self.budget.priority)


@dataclass(frozen=True, slots=True)
class Truth:
    """What holds for a second. ``clock``: by device, with heat; ``rates``: of the models that are there."""

    conditions: Conditions
    clock: tuple[float, ...]
    cap_w: float | None
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Worth:
    """Of a possible placement: weighted loss and watts above the idle board."""

    loss: float
    watts: float


class Contract:
    """Of one board. Devices are counted in the profile's order."""

    def __init__(self, profile: BoardProfile) -> None:
        self._profile = profile
        self._index = {device.id: i for i, device in enumerate(profile.devices)}
        self._rest_w = profile.base.watts + sum(device.idle_w for device in profile.devices)

    def joints(self, models: Sequence[Known]) -> list[Joint]:
        """Every placement of these models that no overlay forbids."""
        options = [[*sorted(model.measurements, key=str), None] for model in models]
        return [joint for joint in itertools.product(*options) if self._one_overlay(models, joint)]

    def worth(self, models: Sequence[Known], joint: Joint, truth: Truth) -> Worth | None:
        """None when it is not possible. When even the idle board is over the cap, that counts for nothing."""
        busy = [0.0] * len(self._profile.devices)
        held: set[int] = set()
        watts = promised_w = loss = 0.0
        for model, candidate, rate in zip(models, joint, truth.rates, strict=True):
            if candidate is None:
                loss += SHED * model.weight
                continue
            device = self._index[candidate.device]
            if truth.conditions.lost[device]:
                return None
            # A run at a share f of the clock takes 1 / f as long at f^2 of the power.
            joules = model.run_s[candidate] * self._profile.devices[device].active_w * truth.clock[device]
            watts += rate * joules
            promised_w += model.budget.rate_hz * joules
            used, excess = self._alone(model, candidate, truth)
            busy[device] += used
            held.add(device)
            excess = max(excess, self._beside(models, joint, model, candidate, truth))
            if excess > 1:
                share = (min(excess, MOST_EXCESS) - 1) / (MOST_EXCESS - 1)
                loss += (LATE + (MOST_LATE - LATE) * share) * model.weight
        holding_w = sum(self._profile.devices[device].holding_w for device in held)
        kinds = [device.kind for device in self._profile.devices]
        if any(share > MAX_UTILISATION[kind] + 1e-9 for kind, share in zip(kinds, busy, strict=True)):
            return None
        cap_w = truth.cap_w
        if cap_w is not None and cap_w >= self._rest_w and self._rest_w + promised_w + holding_w > cap_w:
            return None
        return Worth(loss, watts + holding_w)

    def slowdown_of(self, candidate: Candidate, truth: Truth) -> float:
        """Time of a run as a multiple of that at full clock."""
        return self._slowdown(self._index[candidate.device], truth)

    def _slowdown(self, device: int, truth: Truth) -> float:
        return 1.0 / (truth.clock[device] * (1.0 - truth.conditions.share[device]))

    def _alone(self, model: Known, candidate: Candidate, truth: Truth) -> tuple[float, float]:
        """Its share of its device at the budget's rate (at most the bound), and the largest multiple of a bound."""
        device = self._index[candidate.device]
        slow, m = self._slowdown(device, truth), model.measurements[candidate]
        used = model.budget.rate_hz * model.run_s[candidate] * slow
        most = MAX_UTILISATION[self._profile.devices[device].kind]
        return min(used, most), max(used / most, m.p99_ms * slow / model.budget.latency_p99_ms)

    def _beside(
        self, models: Sequence[Known], joint: Joint, model: Known, candidate: Candidate, truth: Truth
    ) -> float:
        """Its 99th percentile with a run of another model on the device before it, as a multiple of its budget."""
        slow = self._slowdown(self._index[candidate.device], truth)
        longest_ms = max(
            (
                other.measurements[there].p50_ms
                for other, there in zip(models, joint, strict=True)
                if other is not model and there is not None and there.device == candidate.device
                and other.budget.rate_hz * other.run_s[there] * slow > RARE
            ),
            default=0.0,
        )  # fmt: skip
        return slow * (model.measurements[candidate].p99_ms + longest_ms) / model.budget.latency_p99_ms

    def _one_overlay(self, models: Sequence[Known], joint: Joint) -> bool:
        overlays: dict[str, object] = {}
        for model, candidate in zip(models, joint, strict=True):
            if candidate is None:
                continue
            overlay = model.measurements[candidate].overlay
            if overlay is not None and overlays.setdefault(candidate.device, overlay) != overlay:
                return False
        return True


def at(rates: Sequence[tuple[float, float]], second: int) -> float:
    """The mean of a rate, given by (time, value from then on), over one second."""
    ends = [*(time for time, _ in rates[1:]), math.inf]
    return sum(
        value * max(0.0, min(end, second + 1) - max(start, second))
        for (start, value), end in zip(rates, ends, strict=True)
    )
