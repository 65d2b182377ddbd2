"""What a comparison of policies came to, as tables and as JSON: every figure, over all traces and by kind of trace."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.cli.output import print_table, terminal_columns
from agent.types import to_jsonable
from simulator.evaluation.figures import Against, Figures, Mean, against, figures, key_of
from simulator.evaluation.result import Result
from simulator.evaluation.run import HINDSIGHT, ORACLE

OURS = "ours"
NOTE = "boards, requests, heat and power are modelled; no model was computed"
WIDTH = 100  # columns that the tables keep to
HEADS = (
    "POLICY", "VIOL%", "SHED%", "OVER S", "MJ/INF", "MJ/TIMELY", "REGRET%", "P95%", "EXCESS S", "RECOV S",
)  # fmt: skip
DECIDES_HEADS = ("POLICY", "TRACES", "SWITCHES", "MS/LOOK", "BESIDE OURS")
FAMILY_HEADS = (
    "TRACES", "POLICY", "VIOL%", "SHED%", "OVER S", "MJ/INF", "REGRET%", "SWITCH", "RECOV",
)  # fmt: skip
COUNTS = (
    "BESIDE OURS: what is more or less by more than chance, paired by trace (95 %). 'violates' counts requests that"
    " were late, failed or shed, and seconds over the cap, each as a share of its trace; 'draws' means mJ/inf,"
    " 'in time' mJ/timely."
)


@dataclass(frozen=True, slots=True)
class Report:
    """``overall``: of each policy, over all traces that are for it; ``families``: by family; ``against``: ours
    beside each of the others."""

    overall: tuple[Figures, ...]
    families: Mapping[str, tuple[Figures, ...]]
    against: Mapping[str, Against]
    results: tuple[Result, ...]


def report_of(results: Sequence[Result], group: Callable[[Result], str] = lambda each: each.family) -> Report:
    """``group``: what is one line of the second table. KeyError: the oracle's run of a trace is not in it."""
    oracle = {key_of(each): each for each in results if each.policy == ORACLE}
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for each in results:
        groups[group(each)].append(each)
    policies = _by_policy(results)
    ours = policies.get(OURS, [])
    others = {name: runs for name, runs in policies.items() if name not in (OURS, ORACLE, HINDSIGHT)}
    return Report(
        overall=tuple(figures(runs, oracle) for runs in policies.values()),
        families={
            name: tuple(figures(runs, oracle) for runs in _by_policy(each).values())
            for name, each in groups.items()
        },
        against={name: against(ours, runs) for name, runs in others.items()} if ours else {},
        results=tuple(results),
    )


def show(report: Report) -> None:
    """Three tables."""
    print(f"{NOTE}\n")
    print_table(HEADS, [_cells(each) for each in report.overall], title="all traces")
    print()
    rows = [_decides(each, report.against) for each in report.overall]
    print_table(DECIDES_HEADS, rows, title="how they decide")
    for text in (COUNTS, requests_alone(report.against)) if report.against else ():
        if text:
            print(textwrap.fill(text, max(24, min(WIDTH, terminal_columns()))))
    print()
    of_families = [_family_cells(name, each) for name, found in report.families.items() for each in found]
    print_table(FAMILY_HEADS, of_families, title="by kind of trace")


def as_json(report: Report) -> dict[str, Any]:
    """With every result. A recovery that did not come about, and regret where nothing was answered, are null."""
    told = {
        "note": NOTE,
        "overall": report.overall,
        "families": report.families,
        "against": report.against,
        "results": report.results,
    }
    return {name: _finite(to_jsonable(value)) for name, value in told.items()}


def _by_policy(results: Iterable[Result]) -> dict[str, list[Result]]:
    found: defaultdict[str, list[Result]] = defaultdict(list)
    for each in results:
        found[each.policy].append(each)
    return dict(found)


def in_words(ours: Against) -> str:
    """What the other does better or worse than ours, by more than chance."""
    signs = {True: "more", False: "less"}
    found = [
        f"{what} {signs[mean.below]}"
        for what, mean in (("violates", ours.unmet), ("draws", ours.joules))
        if mean.below or mean.above
    ]
    if ours.beaten_in_time and not ours.beaten:
        found.append("more for what is in time" if ours.timely.below else "no less for what is in time")
    return ", ".join(found) or "is equal"


def requests_alone(ours: Mapping[str, Against]) -> str | None:
    """Who has a smaller share of late, failed and shed requests than ours, by more than chance or not: time over the
    cap must not hide it. None when nobody has."""
    sure = [name for name, each in ours.items() if each.requests.above]
    unsure = [name for name, each in ours.items() if each.requests.value > 0 and name not in sure]
    found = [
        f"{', '.join(names)} ({words} chance)"
        for names, words in ((sure, "by more than"), (unsure, "within"))
        if names
    ]
    if not found:
        return None
    return f"By late, failed and shed requests alone, these violate less than ours: {'; '.join(found)}."


def _cells(each: Figures) -> tuple[object, ...]:
    return (
        each.policy,
        _mean(each.violations, 100, 2),
        _number(100 * each.shed.value, 2),
        _number(each.over_cap_s.value, 1),
        _number(1e3 * each.joules.value, 1),
        _number(1e3 * each.timely_j, 1),
        _mean(each.regret, 100, 1),
        _number(100 * each.regret_p95, 1),
        _number(each.excess_s, 0),
        _recovery(each),
    )


def _decides(each: Figures, ours: Mapping[str, Against]) -> tuple[object, ...]:
    words = in_words(ours[each.policy]) if each.policy in ours else None
    return each.policy, each.runs, _number(each.switches.value, 1), f"{each.plan_ms:.2f}", words


def _family_cells(name: str, each: Figures) -> tuple[object, ...]:
    return (
        name,
        each.policy,
        _mean(each.violations, 100, 2),
        _number(100 * each.shed.value, 2),
        _number(each.over_cap_s.value, 1),
        _number(1e3 * each.joules.value, 1),
        _mean(each.regret, 100, 1),
        _number(each.switches.value, 1),
        _recovery(each),
    )


def _recovery(each: Figures) -> str:
    return "never" if math.isinf(each.recovery_s) else _number(each.recovery_s, 1)


def _mean(mean: Mean, scale: float, digits: int) -> str:
    """With the half of its 95 % interval."""
    if mean.margin is None:
        return _number(scale * mean.value, digits)
    size = scale * max(abs(mean.value), mean.margin)
    return f"{_number(scale * mean.value, digits, size)} ± {_number(scale * mean.margin, digits, size)}"


def _number(value: float, digits: int, size: float | None = None) -> str:
    """With so many digits after the point, fewer for what is large; ``size``: what counts as that, itself when None."""
    size = abs(value) if size is None else size
    most = 0 if size >= 99.95 else 1 if size >= 9.995 else digits
    return f"{value:.{min(digits, most)}f}"


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
