"""What results add up to: definitions only, over values.

A run is compared with the oracle's of the same trace. Regret is about joules per answered request, not about joules:
who sheds or fails requests draws less in all. It says little without the violations and what was shed beside it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from simulator.evaluation.result import Result

RECOVER_S, RECOVER_LOADS = (
    5.0,
    3.0,
)  # a recovery may take that long, or so many times what was loaded meanwhile
WITHIN_PP = 0.3  # percentage points of violations above the oracle's: up to there regret stands for itself
Key = tuple[str, str, int]  # family, split, seed

# Student's t, 97.5 %, by degrees of freedom (R. A. Fisher's table); beyond, the normal distribution's 1.96 within 2 %.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mean:
    """``value`` ± ``margin`` at 95 % confidence (Student); margin None with fewer than two values."""

    value: float
    margin: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """ValueError without values."""
        if not values:
            raise ValueError("no values")
        if len(values) < 2:
            return cls(values[0], None)
        t = STUDENT[len(values) - 2] if len(values) - 2 < len(STUDENT) else 1.96
        return cls(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values)))

    @property
    def below(self) -> bool:
        """Whether it is below zero by more than chance."""
        return self.value + (self.margin or 0.0) < 0

    @property
    def above(self) -> bool:
        """Whether it is above zero by more than chance."""
        return self.value - (self.margin or 0.0) > 0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one policy over some runs. Shares and regrets are fractions, ``over_oracle_pp``: violations above the
    oracle's, in percentage points. ``regret_within``: over the ``within`` runs of which that is no more than
    ``WITHIN_PP``, None without any. ``switches_ratio``: all switches over all of the oracle's (at least 1).
    ``over_cap_s``: all seconds of a run over the cap; ``excess_s``: the longest excess over a cap of all runs.
    ``recovery_s``: the longest recovery of all events from which the oracle recovers, ``slow`` how many of these
    ``recoveries`` took longer than they may. ``plan_ms``: mean processor time of a look, ``plan_share``: processor time
    of all looks over simulated time."""

    policy: str
    runs: int
    violations: Mean
    shed: Mean
    joules: Mean  # per answered request
    timely_j: float  # all joules per request answered in time
    regret: Mean
    regret_p95: float
    regret_within: Mean | None
    within: int
    over_oracle_pp: Mean
    switches: Mean
    switches_ratio: float
    over_cap_s: Mean
    excess_s: float
    recovery_s: float
    recoveries: int
    slow: int
    plan_ms: float
    plan_share: float


@dataclass(frozen=True, slots=True)
class Against:
    """Ours less another policy's, each trace counting the same. ``unmet``: the share of requests that were late, failed
    or shed, and the share of time over the cap: who ignores that has an easy life; ``requests``: without the latter.
    ``joules``: the logarithm of joules per answered request; ``timely``: that of joules per request answered in time.
    """

    unmet: Mean
    requests: Mean
    joules: Mean
    timely: Mean

    @property
    def beaten(self) -> bool:
        """Whether we are better in ``unmet`` or in ``joules``, by more than chance, and not worse in the other by more
        than chance."""
        return _beaten(self.unmet, self.joules)

    @property
    def beaten_in_time(self) -> bool:
        """The same, with ``timely`` for ``joules``: an answer that is too late is none."""
        return _beaten(self.unmet, self.timely)


def key_of(result: Result) -> Key:
    """Of its trace."""
    return result.family, result.split, result.seed


def regret(result: Result, oracle: Result) -> float:
    """Joules per answered request above the oracle's, as a fraction of those; infinity when nothing was answered."""
    mine, best = result.joules_per_inference, oracle.joules_per_inference
    if best is None or best <= 0:
        return 0.0
    return math.inf if mine is None else mine / best - 1.0


def figures(results: Iterable[Result], oracle: Mapping[Key, Result]) -> Figures:
    """Of one policy's runs; ``oracle``: its run of each trace. ValueError without runs; KeyError: a trace that the
    oracle has not run."""
    runs = list(results)
    if not runs:
        raise ValueError("no runs")
    best = [oracle[key_of(run)] for run in runs]
    pairs = list(zip(runs, best, strict=True))
    regrets = [regret(run, of) for run, of in pairs]
    over_pp = [100 * (run.violations - of.violations) for run, of in pairs]
    within = [value for value, points in zip(regrets, over_pp, strict=True) if points <= WITHIN_PP]
    took = [each for run, of in pairs for each in recoveries(run, of)]
    return Figures(
        policy=runs[0].policy,
        runs=len(runs),
        violations=Mean.of([run.violations for run in runs]),
        shed=Mean.of([run.shed_share for run in runs]),
        joules=Mean.of([run.joules_per_inference or 0.0 for run in runs]),
        timely_j=sum(run.joules for run in runs) / max(1, sum(run.in_time for run in runs)),
        regret=Mean.of(regrets),
        regret_p95=quantile(regrets, 0.95),
        regret_within=Mean.of(within) if within else None,
        within=len(within),
        over_oracle_pp=Mean.of(over_pp),
        switches=Mean.of([float(run.switches) for run in runs]),
        switches_ratio=sum(run.switches for run in runs) / max(1, sum(of.switches for of in best)),
        over_cap_s=Mean.of([run.over_cap_s for run in runs]),
        excess_s=max(run.excess_s for run in runs),
        recovery_s=max((seconds for seconds, _ in took), default=0.0),
        recoveries=len(took),
        slow=sum(seconds > most for seconds, most in took),
        plan_ms=1e3 * sum(run.plan_s for run in runs) / max(1, sum(run.looks for run in runs)),
        plan_share=sum(run.plan_s for run in runs) / sum(run.seconds for run in runs),
    )


def recoveries(run: Result, oracle: Result) -> list[tuple[float, float]]:
    """(seconds taken, seconds that it may take) of each event from which the oracle recovers in time: where not even
    that does, nothing can. Infinity: not before the next event."""
    found = []
    for mine, best in zip(run.recoveries, oracle.recoveries, strict=True):
        if best.seconds is not None and best.seconds <= RECOVER_S:
            most = max(RECOVER_S, RECOVER_LOADS * mine.load_s)
            found.append((math.inf if mine.seconds is None else mine.seconds, most))
    return found


def against(ours: Iterable[Result], other: Iterable[Result]) -> Against:
    """Paired by trace, on those that both ran. ValueError: there are none."""
    theirs = {key_of(result): result for result in other}
    pairs = [(result, theirs[key_of(result)]) for result in ours if key_of(result) in theirs]
    return Against(
        unmet=Mean.of([_unmet(a) - _unmet(b) for a, b in pairs]),
        requests=Mean.of([_requests(a) - _requests(b) for a, b in pairs]),
        joules=Mean.of([_log_ratio(a, b, a.answered, b.answered) for a, b in pairs]),
        timely=Mean.of([_log_ratio(a, b, a.in_time, b.in_time) for a, b in pairs]),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all are not above (nearest rank). ValueError without values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _beaten(*means: Mean) -> bool:
    return any(mean.below for mean in means) and not any(mean.above for mean in means)


def _unmet(result: Result) -> float:
    return _requests(result) + result.over_cap_s / result.seconds


def _requests(result: Result) -> float:
    return result.violations + result.shed_share


def _log_ratio(ours: Result, theirs: Result, our_answers: int, their_answers: int) -> float:
    """Of joules for each answer; of none as if it were one."""
    mine, other = ours.joules / max(1, our_answers), theirs.joules / max(1, their_answers)
    return math.log(mine / other) if mine > 0 and other > 0 else 0.0
