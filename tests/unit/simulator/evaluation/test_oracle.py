"""The oracle: no schedule of the same steps costs less, and its replay keeps what it planned."""

from __future__ import annotations

import itertools
import random

import pytest

from simulator.evaluation.contract import Joint
from simulator.evaluation.oracle import Scheduler, run_oracle, schedule
from simulator.evaluation.run import HINDSIGHT, Stage
from simulator.evaluation.traces import make_trace


def stage_of(family: str, seed: int) -> Stage:
    return Stage.of(make_trace(family, "tune", seed))


def levels(stage: Stage) -> list[list[int]]:
    return [sample.level for sample in stage.idle.board.bins]


@pytest.mark.parametrize(("family", "seed"), [("bursty", 0), ("contention", 1), ("cap-step", 3)])
def test_no_other_schedule_costs_less(family: str, seed: int) -> None:
    stage = stage_of(family, seed)
    scheduler = Scheduler(stage)
    steps = scheduler.steps(levels(stage))
    best = scheduler.best(steps)
    least = scheduler.cost(best, steps)
    draw = random.Random(seed)
    for _ in range(300):
        other = list(best)
        begin = draw.randrange(len(other))
        held: Joint = ()  # another placement for a while, where it is possible
        for second in range(begin, min(len(other), begin + draw.choice((1, 5, 30, 400)))):
            if held not in steps[second].worths:
                held = draw.choice(sorted(steps[second].worths, key=str))
            other[second] = held
        loss, joules = scheduler.cost(other, steps)
        assert loss > least[0] or (loss == least[0] and joules > least[1] - 1e-6)


def test_it_moves_where_rates_make_it_worth_its_while_and_nothing_fails() -> None:
    result = run_oracle(stage_of("bursty", 0))
    assert result.switches >= 2
    assert result.failed == 0 and result.shed == 0 and result.violations < 0.01


def test_it_has_moved_when_the_cap_falls() -> None:
    stage = stage_of("cap-step", 0)
    falls = stage.trace.scenario.caps[0]
    moves = [(at_s, move) for at_s, move in schedule(stage, levels(stage)) if at_s > 0]
    assert moves and falls.at_s - 3 < moves[0][0] < falls.at_s
    assert run_oracle(stage).excess_s == 0


def test_two_overlays_are_never_on_one_fpga() -> None:
    stage = stage_of("contention", 0)
    scheduler = Scheduler(stage)
    steps = scheduler.steps(levels(stage))
    for joint, step in zip(scheduler.best(steps), steps, strict=True):
        overlays = {
            model.measurements[candidate].overlay
            for model, candidate in zip(step.models, joint, strict=True)
            if candidate is not None and candidate.device == "fpga"
        }
        assert len(overlays) <= 1


def test_moves_of_a_model_are_in_order() -> None:
    for family, seed in (("contention", 0), ("cap-step", 4), ("bursty", 2)):
        script = schedule(stage_of(family, seed), levels(stage_of(family, seed)))
        for model in {move.model for _, move in script}:
            times = [at_s for at_s, move in script if move.model == model]
            assert all(early <= late for early, late in itertools.pairwise(times))


def test_who_need_not_keep_the_promise_draws_no_more_and_is_in_time_all_the_same() -> None:
    stage = stage_of("co-tenant", 3)  # what comes is a part of what was promised, and the CPU bears that
    bound, free = run_oracle(stage), run_oracle(stage, HINDSIGHT)
    assert free.policy == HINDSIGHT and free.violations < 0.01 and bound.violations < 0.01
    assert free.joules < 0.95 * bound.joules
