"""What a comparison of policies came to, as tables and as JSON: every figure, over all traces and by kind of trace."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.cli.output import print_table
from agent.types import to_jsonable
from simulator.evaluation.figures import Against, Figures, Mean, against, figures, key_of
from simulator.evaluation.result import Result
from simulator.evaluation.run import HINDSIGHT, ORACLE

OURS = "ours"
NOTE = "boards, requests, heat and power are modelled; no model was computed"
HEADS = (
    "POLICY", "TRACES", "VIOLATIONS %", "SHED %", "MJ/INFERENCE", "MJ/IN TIME", "REGRET %", "P95 %", "SWITCHES",
    "EXCESS S", "RECOVERY S", "MS/LOOK", "BESIDE OURS",
)  # fmt: skip
FAMILY_HEADS = ("TRACES", *HEADS[:1], *HEADS[2:-2])


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
    """Two tables."""
    print(f"{NOTE}\n")
    print_table(HEADS, [_row(each, report.against) for each in report.overall], title="all traces")
    print()
    rows = [(name, *_cells(each)) for name, found in report.families.items() for each in found]
    print_table(FAMILY_HEADS, rows, title="by kind of trace")


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


def _row(each: Figures, ours: Mapping[str, Against]) -> tuple[object, ...]:
    policy, *cells = _cells(each)
    words = in_words(ours[each.policy]) if each.policy in ours else None
    return policy, each.runs, *cells, f"{each.plan_ms:.2f}", words


def _cells(each: Figures) -> tuple[object, ...]:
    return (
        each.policy,
        _mean(each.violations, 100, 2),
        _mean(each.shed, 100, 2),
        _mean(each.joules, 1e3, 1),
        f"{1e3 * each.timely_j:.1f}",
        _mean(each.regret, 100, 1),
        f"{100 * each.regret_p95:.1f}",
        _mean(each.switches, 1, 1),
        f"{each.excess_s:.0f}",
        "never" if math.isinf(each.recovery_s) else f"{each.recovery_s:.1f}",
    )


def _mean(mean: Mean, scale: float, digits: int) -> str:
    """With the half of its 95 % interval."""
    value = f"{scale * mean.value:.{digits}f}"
    return value if mean.margin is None else f"{value} ± {scale * mean.margin:.{digits}f}"


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
