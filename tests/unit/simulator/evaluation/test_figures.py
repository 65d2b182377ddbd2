"""The figures' definitions, on results made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from simulator.evaluation.figures import Mean, against, figures, key_of, quantile, recoveries, regret
from simulator.evaluation.result import Recovery, Result

ONE = Result(
    family="steady", split="test", seed=0, board="trio", policy="ours", seconds=100.0, requests=1000, answered=1000,
    late=10, failed=0, shed=0, joules=110.0, switch_j=1.0, switches=3, excess_s=0.0, over_cap_s=2.0, recoveries=(),
    looks=100, plan_s=0.05, longest_plan_s=0.002,
)  # fmt: skip
BEST = replace(ONE, policy="oracle", late=5, joules=100.0, switches=2)


def test_regret_is_about_joules_for_each_answer() -> None:
    assert regret(ONE, BEST) == pytest.approx(0.1)
    shedding = replace(ONE, answered=500, shed=500, joules=55.0)
    assert regret(shedding, BEST) == pytest.approx(0.1)  # half the joules, but for half the answers
    assert regret(replace(ONE, answered=0), BEST) == math.inf


def test_violations_count_what_is_late_and_what_failed_apart_from_what_is_shed() -> None:
    mixed = replace(ONE, answered=900, late=20, failed=30, shed=70)
    assert mixed.violations == pytest.approx(0.05) and mixed.shed_share == pytest.approx(0.07)
    told = figures([mixed], {key_of(BEST): BEST})
    assert told.over_oracle_pp.value == pytest.approx(4.5) and told.over_oracle_pp.margin is None


def test_figures_of_runs_over_several_traces() -> None:
    runs = [replace(ONE, seed=seed, joules=101.0 + seed, excess_s=float(seed)) for seed in range(10)]
    oracle = {key_of(run): replace(BEST, seed=run.seed) for run in runs}
    told = figures(runs, oracle)
    assert told.runs == 10 and told.regret.value == pytest.approx(0.055)
    assert told.regret_p95 == pytest.approx(0.1)  # of ten values the largest
    assert told.switches_ratio == pytest.approx(1.5) and told.excess_s == 9.0
    assert told.plan_ms == pytest.approx(0.5) and told.plan_share == pytest.approx(0.0005)
    with pytest.raises(ValueError, match="no runs"):
        figures([], oracle)


def test_regret_of_runs_that_violate_little_is_apart() -> None:
    runs = [replace(ONE, seed=seed, late=late) for seed, late in ((0, 5), (1, 8), (2, 9), (3, 500))]
    runs = [replace(run, joules=100.0 + 10 * run.seed) for run in runs]
    oracle = {key_of(run): replace(BEST, seed=run.seed) for run in runs}
    told = figures(runs, oracle)
    assert told.within == 2 and told.regret_within is not None
    assert told.regret_within.value == pytest.approx(0.05) and told.regret.value == pytest.approx(0.15)
    assert told.over_cap_s.value == 2.0
    none = figures(runs[3:], oracle)
    assert none.within == 0 and none.regret_within is None


def test_switches_where_the_oracle_has_none_are_counted_as_they_are() -> None:
    told = figures([ONE], {key_of(BEST): replace(BEST, switches=0)})
    assert told.switches_ratio == 3.0


def test_the_interval_is_students() -> None:
    mean = Mean.of([1.0, 2.0, 3.0])
    assert mean.value == 2.0 and mean.margin == pytest.approx(4.303 / math.sqrt(3))
    assert Mean.of([5.0]).margin is None


def test_recoveries_are_counted_where_the_oracle_recovers() -> None:
    events = (
        Recovery(10.0, "cap falls", 2.0, 0.0), Recovery(50.0, "cap rises", None, 2.0), Recovery(80.0, "x", None, 0.0),
    )  # fmt: skip
    best = (*(replace(each, seconds=0.0) for each in events[:2]), events[2])
    found = recoveries(replace(ONE, recoveries=events), replace(BEST, recoveries=best))
    assert found == [(2.0, 5.0), (math.inf, 6.0)]
    told = figures([replace(ONE, recoveries=events)], {key_of(BEST): replace(BEST, recoveries=best)})
    assert told.recovery_s == math.inf and (told.recoveries, told.slow) == (2, 1)


def test_a_policy_is_beaten_by_less_energy_at_no_more_violations_and_the_other_way_round() -> None:
    ours = [replace(ONE, seed=seed, joules=100.0 + seed % 2) for seed in range(10)]

    assert against(ours, [replace(run, joules=run.joules * 1.2 + run.seed % 3) for run in ours]).beaten
    assert against(ours, [replace(run, late=50 + run.seed % 3) for run in ours]).beaten
    assert not against(ours, ours).beaten
    shedding = [
        replace(run, answered=600 + run.seed % 3, shed=400 - run.seed % 3, joules=66.0) for run in ours
    ]
    assert against(ours, shedding).beaten
    over_cap = [replace(run, over_cap_s=50.0 + run.seed % 3) for run in ours]
    assert against(ours, over_cap).beaten and against(ours, over_cap).requests.value == 0.0


def test_late_answers_that_cost_less_are_beaten_only_by_what_is_answered_in_time() -> None:
    ours = [replace(ONE, seed=seed, joules=100.0 + seed % 2) for seed in range(10)]
    cheaper = [replace(run, late=800 + run.seed % 3, joules=60.0 + run.seed % 3) for run in ours]

    assert not against(ours, cheaper).beaten
    assert against(ours, cheaper).beaten_in_time
    with pytest.raises(ValueError, match="no values"):
        against(ours, [])


def test_only_traces_of_both_are_compared() -> None:
    ours = [replace(ONE, seed=seed, joules=100.0 + seed % 2) for seed in range(10)]
    other = [replace(run, joules=2 * run.joules + run.seed) for run in ours[:5]]
    told = against(ours, other)
    assert told.joules == against(ours[:5], other).joules and told.joules.value < math.log(0.51)


def test_quantiles_by_nearest_rank() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0 and quantile([1.0], 0.95) == 1.0
    assert quantile([float(i) for i in range(1, 101)], 0.95) == 95.0
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
