"""``overlaid sim evaluate``: placement policies on modelled boards, beside a clairvoyant oracle."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from agent.cli.output import Commands, add_command, add_json, print_json

MAX_SEEDS = 1000
# For the help only: to import what is behind them would slow every command of ``overlaid sim``.
TRACES = "steady, diurnal, bursty, thermal, co-tenant, cap-step, contention, sensor-loss"
NAMES = "hindsight, ours, always-cpu, always-gpu, always-fpga, gpu-90, auto, npu-cpu, alert, greedy"


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        "compare placement policies on seeded traces: violations beside joules, regret to an oracle",
        "overlaid sim evaluate --trace bursty co-tenant --seeds 5 --plot policies.png",
    )
    evaluate.add_argument(
        "--trace", nargs="+", metavar="NAME", help=f"kinds of traces, any of {TRACES} (default: all)"
    )
    evaluate.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="traces of each kind (default 10)"
    )
    evaluate.add_argument(
        "--policies", nargs="+", metavar="NAME", help=f"beside the oracle, any of {NAMES} (default: all)"
    )
    evaluate.add_argument(
        "--split",
        choices=("test", "tune"),
        default="test",
        help="test traces (default), or those that the policies were tuned on",
    )
    evaluate.add_argument("--each", action="store_true", help="a line for each trace")
    evaluate.add_argument("--plot", type=Path, metavar="OUT.png", help="draw it (extra: plot)")
    add_json(evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from agent.cli.bar import progress_bar
    from agent.errors import UsageError
    from simulator.evaluation.policies import POLICIES
    from simulator.evaluation.report import as_json, report_of, show
    from simulator.evaluation.result import Result
    from simulator.evaluation.run import HINDSIGHT, ORACLE, run_all
    from simulator.evaluation.traces import FAMILIES

    families = _known("trace", args.trace or [*FAMILIES], FAMILIES)
    names = _known("policy", args.policies or [HINDSIGHT, *POLICIES], [ORACLE, HINDSIGHT, *POLICIES])
    if not 1 <= args.seeds <= MAX_SEEDS:
        raise UsageError(f"--seeds must be between 1 and {MAX_SEEDS}, not {args.seeds}")
    if args.plot is not None:
        from agent.cli.picture import check_picture

        check_picture(args.plot)  # before minutes have passed
    with progress_bar() as progress:
        results = run_all(
            families, args.split, range(args.seeds), [ORACLE, *(name for name in names if name != ORACLE)],
            processes=len(os.sched_getaffinity(0)),
            progress=lambda done, of: progress(f"{done} of {of} traces", done / of),
        )  # fmt: skip

    def trace(each: Result) -> str:
        return f"{each.family} {each.seed} {each.board}" if args.each else each.family

    report = report_of(results, trace)
    if args.json:
        print_json({"split": args.split, "seeds": args.seeds, **as_json(report)})
    else:
        show(report)
    if args.plot is not None:
        from simulator.cli.plot_policies import plot_policies

        plot_policies(report, args.plot)
        if not args.json:
            print(f"wrote {args.plot}")
    return 0


def _known(what: str, names: Sequence[str], there: Collection[str]) -> list[str]:
    """Each once. UsageError: there is no such."""
    from agent.errors import UsageError

    for name in names:
        if name not in there:
            raise UsageError(f"there is no {what} {name!r}; there are {', '.join(sorted(there))}")
    return list(dict.fromkeys(names))
