"""``overlaid sim run``: a scenario, in event time or in real time."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.cli.output import Commands, add_command, add_json


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    run = add_command(
        commands,
        "run",
        _run,
        "run a scenario: a modelled board, its requests, caps and faults over time",
        "overlaid sim run simulator/scenarios/camera-node.toml --plot node.png",
    )
    run.add_argument("scenario", type=Path, metavar="SCENARIO", help="a scenario's TOML file")
    run.add_argument(
        "--clock",
        choices=("event", "real"),
        default="event",
        help="event: as fast as it goes (default); real: as it lasts",
    )
    run.add_argument("--plot", type=Path, metavar="OUT.png", help="draw it over time (extra: plot)")
    add_json(run)


def _run(args: argparse.Namespace) -> int:
    from simulator.cli.report import run_and_report

    return run_and_report(args.scenario, args.clock, args.plot, args.json)
