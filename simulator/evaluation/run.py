"""Run policies on traces, in event time."""

from __future__ import annotations

import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.placement.adapting.look import Move
from simulator.clock import EventClock
from simulator.evaluation.contract import at
from simulator.evaluation.policies import POLICIES, fits
from simulator.evaluation.result import Recovery, Result
from simulator.evaluation.tally import Tally, chance_w, longest, recovered_s
from simulator.evaluation.traces import Split, Trace, make_trace
from simulator.profile import BoardProfile
from simulator.scenario.measure import Profiled, measure_model, measure_rest
from simulator.scenario.policy import Policy
from simulator.scenario.record import Decision
from simulator.scenario.run import Model, Run, simulate

ORACLE, HINDSIGHT = "oracle", "hindsight"
MARGIN_W = 1e-6  # above the cap, for sums of floats


@dataclass(frozen=True, slots=True)
class Stage:
    """A trace with what is the same for every policy: the profiles, and what the board draws without a model."""

    trace: Trace
    profiled: tuple[Profiled, ...]
    rest_w: float | None
    idle: Run

    @classmethod
    def of(cls, trace: Trace) -> Stage:
        profiled = tuple(measure_model(trace.profile, trace.scenario.seed, each) for each in trace.workloads)
        idle = simulate(trace.profile, trace.scenario, (), Idle(), EventClock(), None)
        return cls(trace, profiled, measure_rest(trace.profile), idle)


class Idle:
    """A policy that does nothing."""

    probes = False
    reasons: Mapping[str, str] = {}

    def look(self, *args: object) -> Sequence[Move]:
        del args
        return ()

    def verify(self, *args: object) -> bool:
        del args
        return True

    def failed(self, *args: object) -> None:
        """Nobody cares."""


def run_policy(
    stage: Stage, name: str, policy: Policy, script: Sequence[tuple[float, Move]] = ()
) -> tuple[Result, Run]:
    """``script``: moves by seconds since the start, beside those of the policy."""
    trace = stage.trace
    tallies = [Tally(w.budget.latency_p99_ms, trace.scenario.duration_s) for w in trace.workloads]
    models = [Model(*each) for each in zip(trace.workloads, stage.profiled, tallies, strict=True)]
    ran = simulate(trace.profile, trace.scenario, models, policy, EventClock(), stage.rest_w, script)
    return _result(stage, name, tallies, ran), ran


def run_trace(family: str, split: Split, seed: int, names: Sequence[str]) -> list[Result]:
    """Every one of these policies that is made for the trace's board. KeyError: there is no such family or policy."""
    from simulator.evaluation.oracle import run_oracle

    stage = Stage.of(make_trace(family, split, seed))
    return [
        run_oracle(stage, name)
        if name in (ORACLE, HINDSIGHT)
        else run_policy(stage, name, POLICIES[name]())[0]
        for name in names
        if fits(name, stage.trace.profile)
    ]


def run_all(
    families: Sequence[str],
    split: Split,
    seeds: Sequence[int],
    names: Sequence[str],
    processes: int = 2,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[Result]:
    """All of them, on so many processes; ``progress`` hears of traces done."""
    tasks = [(family, split, seed, tuple(names)) for family in families for seed in seeds]
    results: list[Result] = []
    for number, found in enumerate(_in_processes(tasks, processes)):
        results += found
        progress(number + 1, len(tasks))
    return results


def _in_processes(
    tasks: Sequence[tuple[str, Split, int, Sequence[str]]], processes: int
) -> Iterator[list[Result]]:
    if processes < 2 or len(tasks) < 2:
        yield from itertools.starmap(run_trace, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(min(processes, len(tasks))) as pool:
        yield from pool.imap(_run_task, tasks)


def _run_task(task: tuple[str, Split, int, Sequence[str]]) -> list[Result]:
    return run_trace(*task)


def _result(stage: Stage, name: str, tallies: Sequence[Tally], ran: Run) -> Result:
    trace, board, idle = stage.trace, ran.board, stage.idle.board
    over = _over_cap(trace, tallies, ran)
    switches = _switches(ran.node.decisions)
    thought = ran.node.thought
    return Result(
        family=trace.family,
        split=trace.split,
        seed=trace.seed,
        board=trace.profile.name,
        policy=name,
        seconds=trace.scenario.duration_s,
        requests=sum(tally.requests for tally in tallies),
        answered=sum(tally.answered for tally in tallies),
        late=sum(tally.late for tally in tallies),
        failed=sum(tally.failures for tally in tallies),
        shed=sum(tally.shed for tally in tallies),
        joules=board.base_j + sum(board.device_j) - idle.base_j - sum(idle.device_j),
        switch_j=ran.node.switch_j,
        switches=len(switches),
        excess_s=float(longest(over)),
        over_cap_s=float(sum(over)),
        recoveries=_recoveries(trace, tallies, over, switches),
        looks=thought.looks,
        plan_s=thought.seconds,
        longest_plan_s=thought.longest_s,
    )


def _over_cap(trace: Trace, tallies: Sequence[Tally], ran: Run) -> list[bool]:
    """By second, whether the board would draw more than the cap had as many requests arrived as the rate tells."""
    over = []
    for second, bin in enumerate(ran.board.bins):
        watts = (bin.base_j + sum(bin.device_j)) / bin.seconds
        chance = sum(
            chance_w(tally, second, at(workload.load.rates, second))
            for tally, workload in zip(tallies, trace.workloads, strict=True)
        )
        cap_w = math.inf if bin.cap_w is None else bin.cap_w + MARGIN_W
        over.append(watts - chance > cap_w)
    return over


def _switches(decisions: Sequence[Decision]) -> list[Decision]:
    """What changed where a model is, its first placement left out."""
    known, found = set[str](), []
    for decision in decisions:
        if decision.old != decision.new and decision.model in known:
            found.append(decision)
        known.add(decision.model)
    return found


def _recoveries(
    trace: Trace, tallies: Sequence[Tally], over: Sequence[bool], switches: Sequence[Decision]
) -> tuple[Recovery, ...]:
    times = [*(at_s for at_s, _ in trace.events), trace.scenario.duration_s]
    found = []
    for (at_s, what), end_s in zip(trace.events, times[1:], strict=True):
        seconds = recovered_s(tallies, over, at_s, end_s)
        until = end_s if seconds is None else at_s + seconds
        loads = [
            _load_s(trace.profile, d.new.device)
            for d in switches
            if d.new is not None and at_s <= d.decided_s <= until
        ]
        found.append(Recovery(at_s, what, seconds, max(loads, default=0.0)))
    return tuple(found)


def _load_s(profile: BoardProfile, device_id: str) -> float:
    device = profile.device(device_id)
    return math.fsum([device.load_s, device.overlay.load_s if device.overlay is not None else 0.0])
