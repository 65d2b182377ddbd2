from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.placement.planning.problem import Option, Problem, value_of
from agent.placement.planning.solve import NODES, THOROUGH, solve
from agent.placement.planning.weigh import setting_of
from tests.unit.placement.planning.highs import solve_with_highs
from tests.unit.placement.planning.instances import random_instance

SHED = Option(loss=1000, cost=0.0)
CLOSE = 1e-6  # of a cost: HiGHS lets limits be exceeded by about so much


def problem_of(seed: int) -> Problem:
    rng = random.Random(seed)
    demands, node = random_instance(rng.randint(1, 8), rng.randint(1, 8), seed)
    return setting_of(demands, node, 600.0).problem


def compare(seeds: range) -> None:
    for seed in seeds:
        problem = problem_of(seed)
        ours = solve(problem, nodes=10_000_000)
        assert ours.optimal
        assert value_of(problem, ours.choice) == (ours.loss, ours.cost)
        loss, cost = value_of(problem, solve_with_highs(problem))
        assert ours.loss == loss, f"seed {seed}"
        assert ours.cost == pytest.approx(cost, rel=CLOSE, abs=CLOSE), f"seed {seed}"


def test_the_optimum_is_that_of_highs() -> None:
    compare(range(300))


def test_a_model_that_must_move_for_two_reasons_is_counted_once() -> None:
    # A bound once added what it takes to have a long run to what it takes to have no short one.
    compare(range(2947, 2948))


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(10))
def test_the_optimum_is_that_of_highs_ten_thousand_times(thousand: int) -> None:
    compare(range(300 + thousand * 1000, 1300 + thousand * 1000))


def test_a_search_that_is_cut_short_says_so_and_is_no_worse_than_greed() -> None:
    cut = 0
    for seed in range(20):
        demands, node = random_instance(10, 12, seed)
        problem = setting_of(demands, node, 600.0).problem
        short, longer = solve(problem, nodes=1), solve(problem, nodes=5_000)
        value_of(problem, short.choice)  # it fits
        assert (longer.loss, longer.cost) <= (short.loss, short.cost + 1e-9)
        cut += not short.optimal
    assert cut


@pytest.mark.parametrize(("nodes", "missed", "unproven"), [(NODES, 42, 94), (THOROUGH, 7, 12)])
def test_how_often_a_limit_misses_the_optimum(nodes: int, missed: int, unproven: int) -> None:
    """One in four instances asks for more than the node has: nearly all of these. Not to become more."""
    for seed in range(300):
        problem = setting_of(*random_instance(10, 12, seed), 600.0).problem
        limited, whole = solve(problem, nodes), solve(problem, nodes=10_000_000)
        worse = (limited.loss, limited.cost) > (whole.loss, whole.cost + CLOSE)
        assert whole.optimal
        assert not (worse and limited.optimal), f"seed {seed}"
        unproven -= not limited.optimal
        missed -= worse
    assert min(missed, unproven) >= 0, (missed, unproven)


def test_what_cannot_fit_is_shed() -> None:
    heavy = Option(0, 1.0, uses=((0, 0.6),))
    found = solve(Problem(((heavy, SHED), (heavy, SHED)), (0.7,), 1))
    assert (found.loss, found.cost, found.optimal) == (1000, 1.0, True)


def test_holding_is_paid_once_on_a_device() -> None:
    held = Option(0, 0.1, device=0, hold_cost=2.0, hold_w=2.0)
    alone = Option(0, 1.5, device=1)
    assert solve(Problem(((held, alone),), (), 2)).choice == (1,)
    assert solve(Problem(((held, alone), (held, alone)), (), 2)).choice == (0, 0)
    # As watts it counts once, too.
    capped = Problem(((held, SHED), (held, SHED)), (2.0,), 1, power=0)
    assert solve(capped).loss == 0


def test_nothing_to_place() -> None:
    assert solve(Problem((), (), 0)).choice == ()


def test_a_sum_at_its_capacity_fits() -> None:
    third = Option(0, 1.0, uses=((0, 0.7 / 3),))
    assert solve(Problem(((third, SHED),) * 3, (0.7,), 1)).loss == 0


# Small problems of every kind against trying everything.
amounts = st.sampled_from((0.0, 0.1, 0.3, 0.5, 0.9))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    devices = draw(st.integers(1, 3))
    option = st.builds(
        Option,
        loss=st.sampled_from((0, 0, 500, 742)),
        cost=amounts,
        uses=st.lists(st.tuples(st.integers(0, 1), amounts), max_size=2, unique_by=lambda use: use[0]).map(
            tuple
        ),
        device=st.integers(0, devices - 1),
        hold_cost=amounts,
        hold_w=amounts,
    )
    models = []
    for _ in range(draw(st.integers(1, 4))):
        options = []
        for one in draw(st.lists(option, max_size=3)):
            overlay = draw(st.none() | st.integers(0, 1))
            waits = draw(
                st.lists(st.tuples(st.just(one.device), amounts, amounts | st.just(math.inf)), max_size=1)
            )
            options.append(
                one._replace(overlay=None if overlay is None else (one.device, overlay), waits=tuple(waits))
            )
        models.append((*options, SHED))
    return Problem(tuple(models), (0.7, 1.0), devices, draw(st.none() | st.just(1)))


@settings(max_examples=300)
@given(problems())
def test_the_optimum_is_that_of_trying_everything(problem: Problem) -> None:
    best = (10**9, math.inf)
    for choice in itertools.product(*(range(len(options)) for options in problem.models)):
        try:
            best = min(best, value_of(problem, choice))
        except ValueError:
            continue
    found = solve(problem, nodes=10_000_000)
    assert found.optimal
    assert found.loss == best[0]
    assert found.cost == pytest.approx(best[1], abs=1e-8)
