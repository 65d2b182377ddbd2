"""The clairvoyant: the best schedule in hindsight, switches included, replayed on the same board.

It knows what no policy does: the true rates (not each arrival), co-tenants, clocks, heat, caps and comings and goings
before they happen, and each run's true energy. It is bound by the same contract: what was profiled for a p99, the
budgets' rates for utilisation and cap. Over steps of a second and all joint placements, dynamic programming finds the
schedule with the least weighted loss, then the least joules, loading included. It loads ahead of time, so a switch
costs it energy but no wait, except where a load keeps others from the device. How hot the board becomes depends on the
schedule: it is planned with the throttling that the replay before showed, at most REPLAYS times.

It is the best of this contract, not of all worlds: a policy that breaks the contract may draw less, or be lucky. What
the contract costs shows beside it: ``hindsight`` is the same but for the budgets' rates, for which it takes those that
come, so that it uses what is too slow for what was promised while nobody asks for that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.placement.adapting.look import Move
from agent.types import Candidate
from simulator.evaluation.contract import LATE, Contract, Joint, Known, Truth, Worth, at
from simulator.evaluation.models import queue_p99
from simulator.evaluation.result import Result
from simulator.evaluation.run import ORACLE, Idle, Stage, run_policy
from simulator.faults import Happening, Timeline
from simulator.profile import Device
from simulator.scenario.record import Sample
from simulator.speed import run_seconds

REPLAYS = 3
EMPTY, FULL = 1e-6, 0.99  # of a device; below, nothing waits, and above, without end
Cost = tuple[int, float]  # weighted loss in microseconds (whole, so that sums of equals are equal), J
Place = dict[str, Candidate | None]  # by model that is there


@dataclass(frozen=True, slots=True)
class _Step:
    """One second: the models that are there and what each placement of them is worth."""

    models: tuple[Known, ...]
    worths: Mapping[Joint, Worth]


def run_oracle(stage: Stage, name: str = ORACLE) -> Result:
    """``name``: ORACLE or HINDSIGHT. The replay with the fewest violations, then the least energy, when heat makes them
    differ."""
    levels = [bin.level for bin in stage.idle.board.bins]
    results = []
    for _ in range(REPLAYS):
        script = schedule(stage, levels, name == ORACLE)
        result, ran = run_policy(stage, name, Idle(), script)
        results.append(result)
        seen = [_level(bin) for bin in ran.board.bins]
        if seen == [list(level) for level in levels]:
            break
        levels = seen
    return min(results, key=lambda result: (round(result.violations + result.shed_share, 4), result.joules))


def schedule(
    stage: Stage, levels: Sequence[Sequence[int]], promised: bool = True
) -> list[tuple[float, Move]]:
    """Moves by seconds since the start. ``levels``: throttle points that each zone is beyond, by second;
    ``promised``: that the budgets' rates are kept free for, not only those that come."""
    plan = Scheduler(stage, promised)
    steps = plan.steps(levels)
    return plan.script(plan.best(steps), steps)


class Scheduler:
    """Of one trace."""

    def __init__(self, stage: Stage, promised: bool = True) -> None:
        self._stage, self._profile, self._promised = stage, stage.trace.profile, promised
        self._contract = Contract(self._profile)
        self._known = [
            Known(
                workload.name,
                workload.budget,
                {m.candidate: m for m in profiled.measurements},
                {
                    m.candidate: run_seconds(
                        self._device(m.candidate), workload.work[m.candidate.variant], cpu=self._profile.cpu
                    )
                    for m in profiled.measurements
                },
            )
            for workload, profiled in zip(stage.trace.workloads, stage.profiled, strict=True)
        ]

    # -- what is known -------------------------------------------------------------------------------------------------

    def steps(self, levels: Sequence[Sequence[int]]) -> list[_Step]:
        """One for each second."""
        trace = self._stage.trace
        timeline = Timeline(self._profile, [Happening.of(fault, 0.0) for fault in trace.scenario.faults])
        joints: dict[tuple[Known, ...], list[Joint]] = {}
        found: dict[object, _Step] = {}
        steps = []
        names = [zone.name for zone in self._profile.zones]
        factors = [[1.0, *(point.factor for point in zone.throttle)] for zone in self._profile.zones]
        for second in range(int(trace.scenario.duration_s)):
            there = [
                (known, workload)
                for known, workload in zip(self._known, trace.workloads, strict=True)
                if workload.begins_s < second + 1 and second < workload.ends_s
            ]
            conditions = timeline.at(second + 0.5)
            level = levels[min(second, len(levels) - 1)]
            clock = tuple(
                factors[names.index(d.zone)][level[names.index(d.zone)]] * conditions.clock[i]
                for i, d in enumerate(self._profile.devices)
            )
            rates = tuple(at(workload.load.rates, second) for _, workload in there)
            models = tuple(known for known, _ in there)
            cap_w = self._cap_w(second)
            key = (tuple(m.name for m in models), conditions.since, clock, cap_w, rates)
            if key not in found:
                truth = Truth(conditions, clock, cap_w, rates)
                options = joints.setdefault(models, self._contract.joints(models))
                asked = (
                    models
                    if self._promised
                    else [self._as_comes(*each, truth) for each in zip(models, rates, strict=True)]
                )
                worths = {joint: self._contract.worth(asked, joint, truth) for joint in options}
                found[key] = _Step(
                    models, {joint: worth for joint, worth in worths.items() if worth is not None}
                )
            steps.append(found[key])
        return steps

    def _as_comes(self, known: Known, rate_hz: float, truth: Truth) -> Known:
        """With the rate that comes for the budget's, and the 99th percentiles of a queue at that rate."""
        measurements = {}
        for candidate, m in known.measurements.items():
            slow = self._contract.slowdown_of(candidate, truth)
            run_s = known.run_s[candidate]
            share = min(max(rate_hz * run_s * slow, EMPTY), FULL)
            measurements[candidate] = replace(m, p99_ms=1e3 * run_s * queue_p99(share))
        return replace(known, budget=replace(known.budget, rate_hz=rate_hz), measurements=measurements)

    def _cap_w(self, second: int) -> float | None:
        cap_w = self._stage.trace.scenario.power_cap_w
        for cap in self._stage.trace.scenario.caps:
            if cap.at_s < second + 1:
                cap_w = cap.watts
        return cap_w

    # -- the best schedule ---------------------------------------------------------------------------------------------

    def best(self, steps: Sequence[_Step]) -> list[Joint]:
        """The placement of each second."""
        costs: dict[Joint, Cost] = {joint: (_micro(w.loss), w.watts) for joint, w in steps[0].worths.items()}
        came_from: list[dict[Joint, Joint]] = []
        switch: dict[tuple[object, ...], Cost] = {}
        for before, step in itertools.pairwise(steps):
            new: dict[Joint, Cost] = {}
            source: dict[Joint, Joint] = {}
            for joint, worth in step.worths.items():
                least: Cost | None = None
                for old, (loss, joules) in costs.items():
                    if old == joint and before is step:
                        more: Cost = (0, 0.0)
                    else:
                        key = (id(before), id(step), old, joint)
                        if key not in switch:
                            switch[key] = self._switch(before, old, step, joint)
                        more = switch[key]
                    total = (loss + more[0] + _micro(worth.loss), joules + more[1] + worth.watts)
                    if least is None or total < least:
                        least, source[joint] = total, old
                assert least is not None
                new[joint] = least
            costs = new
            came_from.append(source)
        joint = min(costs, key=lambda each: costs[each])
        path = [joint]
        for source in reversed(came_from):
            joint = source[joint]
            path.append(joint)
        return path[::-1]

    def cost(self, path: Sequence[Joint], steps: Sequence[_Step]) -> Cost:
        """Of a schedule, each second's placement being possible."""
        worths = [step.worths[joint] for joint, step in zip(path, steps, strict=True)]
        loss, joules = sum(_micro(worth.loss) for worth in worths), sum(worth.watts for worth in worths)
        for (old, before), (new, step) in itertools.pairwise(zip(path, steps, strict=True)):
            if old != new or before is not step:
                more = self._switch(before, old, step, new)
                loss, joules = loss + more[0], joules + more[1]
        return loss, joules

    def _switch(self, before: _Step, old: Joint, step: _Step, new: Joint) -> Cost:
        """Joules of loading what is new, and the loss of those that wait for it on their devices."""
        loss = joules = 0.0
        there, then = _place(before, old), _place(step, new)
        for name, candidate in then.items():
            if candidate is None or there.get(name) == candidate:
                continue
            device = self._device(candidate)
            seconds = device.load_s + self._overlay_s(there, name, candidate)
            joules += device.load_j + device.holding_w * seconds
            if device.overlay is not None and self._overlay_s(there, name, candidate):
                joules += device.overlay.load_j
            for other in step.models:
                if other.name != name and _on(then, other.name) == candidate.device:
                    loss += LATE * other.weight * seconds
        return _micro(loss), joules

    def _overlay_s(self, there: Place, name: str, candidate: Candidate) -> float:
        """Of loading its overlay, unless a model there runs on it already."""
        device = self._device(candidate)
        if device.overlay is None:
            return 0.0
        wanted = self._overlay(name, candidate)
        shared = any(
            other is not None and other.device == candidate.device and self._overlay(model, other) == wanted
            for model, other in there.items()
        )
        return 0.0 if shared else device.overlay.load_s

    def _overlay(self, name: str, candidate: Candidate) -> object:
        return next(known for known in self._known if known.name == name).measurements[candidate].overlay

    def _device(self, candidate: Candidate) -> Device:
        return self._profile.device(candidate.device)

    # -- the replay ----------------------------------------------------------------------------------------------------

    def script(self, path: Sequence[Joint], steps: Sequence[_Step]) -> list[tuple[float, Move]]:
        """Moves, begun so early that they are done in time; first those that leave the FPGA, then those
        that are shed."""
        script: list[tuple[float, Move]] = []
        there: Place = {}
        begun: dict[str, float] = {}
        for second, (joint, step) in enumerate(zip(path, steps, strict=True)):
            then = _place(step, joint)
            changed = [name for name in then if name not in there or there[name] != then[name]]
            changed.sort(
                key=lambda name: (not self._leaves_fpga(there.get(name)), then[name] is not None, name)
            )
            at_s = second - sum(self._lead_s(there, name, then[name]) for name in changed)
            if self._cap_rises(second):
                at_s = float(second)
            for name in changed:
                begun[name] = max(at_s, begun.get(name, -math.inf), self._begins_s(name))
                script.append((begun[name] if second else -math.inf, Move(name, then[name], ORACLE, "")))
            there = then
        return script

    def _begins_s(self, name: str) -> float:
        """Before that it cannot be loaded; those that begin at the start are loaded before it."""
        begins_s = next(w.begins_s for w in self._stage.trace.workloads if w.name == name)
        return begins_s or -math.inf

    def _cap_rises(self, second: int) -> bool:
        """Before it does there is no power for loading."""
        before, now = self._cap_w(second - 1), self._cap_w(second)
        return before is not None and (now is None or now > before)

    def _lead_s(self, there: Place, name: str, candidate: Candidate | None) -> float:
        if candidate is None:
            return 0.0
        return self._device(candidate).load_s + self._overlay_s(there, name, candidate)

    def _leaves_fpga(self, candidate: Candidate | None) -> bool:
        return candidate is not None and self._device(candidate).overlay is not None


def _place(step: _Step, joint: Joint) -> Place:
    return {model.name: candidate for model, candidate in zip(step.models, joint, strict=True)}


def _on(place: Place, name: str) -> str | None:
    candidate = place.get(name)
    return candidate.device if candidate is not None else None


def _micro(loss: float) -> int:
    return round(loss * 1e6)


def _level(bin: Sample) -> list[int]:
    return list(bin.level)
