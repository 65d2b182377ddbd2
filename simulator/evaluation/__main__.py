"""``python -m simulator.evaluation``: policies on traces, as one line for each family and policy."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

from agent.cli.output import print_table
from simulator.evaluation.policies import POLICIES
from simulator.evaluation.result import Result
from simulator.evaluation.run import ORACLE, run_all
from simulator.evaluation.traces import FAMILIES

HEADS = (
    "TRACE", "POLICY", "VIOL %", "SHED %", "MJ/INF", "REGRET %", "SWITCHES", "SWITCH J", "EXCESS S", "SLOW RECOVERIES",
    "MS/LOOK",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", default=",".join(FAMILIES), help="families (default: all)")
    parser.add_argument("--seeds", type=int, default=2, help="how many (default 2)")
    parser.add_argument("--policies", default=",".join(POLICIES), help="beside the oracle (default: all)")
    parser.add_argument("--split", choices=("tune", "test"), default="tune")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="a line for each seed")
    args = parser.parse_args()
    names = [ORACLE, *(name for name in args.policies.split(",") if name != ORACLE)]
    results = run_all(args.trace.split(","), args.split, range(args.seeds), names, args.processes)
    oracle = {(r.family, r.seed): r for r in results if r.policy == ORACLE}
    groups: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        seed = f" {result.seed} {result.board}" if args.each else ""
        groups[result.family + seed, result.policy].append(result)
    print_table(HEADS, [_row(key, each, oracle) for key, each in groups.items()])
    return 0


def _row(
    key: tuple[str, str], each: list[Result], oracle: dict[tuple[str, int], Result]
) -> tuple[object, ...]:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    slow = [x for r in each for x in r.recoveries if x.seconds is None or x.seconds > 2]
    return (
        *key,
        f"{mean([100 * r.violations for r in each]):.2f}",
        f"{mean([100 * r.shed_share for r in each]):.2f}",
        f"{mean([1e3 * (r.joules_per_inference or 0) for r in each]):.1f}",
        f"{100 * mean([r.joules / oracle[r.family, r.seed].joules - 1 for r in each]):.1f}",
        f"{mean([r.switches for r in each]):.1f}",
        f"{mean([r.switch_j for r in each]):.1f}",
        f"{max(r.excess_s for r in each):.0f}",
        " ".join("never" if x.seconds is None else f"{x.seconds:.1f}" for x in slow)[:40],
        f"{mean([1e3 * r.plan_s / max(r.looks, 1) for r in each]):.2f}",
    )


if __name__ == "__main__":
    sys.exit(main())
