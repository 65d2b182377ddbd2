"""``overlaid explain`` and ``overlaid bench``: why a model runs where it runs, and what its candidates take."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.output import (
    DAEMON_DOWN,
    Commands,
    add_command,
    add_config,
    add_json,
    interrupted,
    print_json,
)
from agent.control import client
from agent.errors import DaemonNotRunning, TelemetryError, UsageError
from agent.paths import Folders, find_folders

if TYPE_CHECKING:
    from agent.cli.front import Front


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "why a model runs where it runs, and what would change that; exit code 3 as status"
    explain = add_command(commands, "explain", _explain, text, "overlaid explain digits")
    text = "measure every candidate of a deployed model again and draw latency against energy"
    bench = add_command(commands, "bench", _bench, text, "overlaid bench digits --plot digits.png")
    for parser in (explain, bench):
        add_config(parser)
        parser.add_argument("model", metavar="MODEL")
        add_json(parser)
    bench.add_argument(
        "--plot", type=Path, metavar="OUT.png", help="draw the front as a picture (extra: plot)"
    )


def _explain(args: argparse.Namespace) -> int:
    folders = find_folders(args.config)
    running = True
    try:
        answer = client.ask(folders.control_socket, "explain", model=args.model)
    except DaemonNotRunning as down:
        running, answer = False, _last_placement(folders, args.model, down)
    found = {**_flat(answer, running), "changes": _changes(folders, args.model)}
    if args.json:
        print_json(found)
    else:
        from agent.cli.explanation import show_explanation

        if not running:
            print("THE DAEMON IS DOWN; this is the last recorded decision\n")
        show_explanation(found)
    return 0 if running else DAEMON_DOWN


def _flat(answer: dict[str, Any], running: bool) -> dict[str, Any]:
    """The decision's keys and, beside them, what is known of the node."""
    node = {key: value for key, value in answer.items() if key != "placement"}
    return {
        **NOTHING_KNOWN,
        **answer["placement"],
        **node,
        "daemon": "running" if running else "down",
    }


NOTHING_KNOWN: dict[str, Any] = {
    "plan": None,
    "models": [],
    "devices": [],
    "threads": 1,
    "outlook": [],
}
CHANGES = 5


def _last_placement(folders: Folders, model: str, down: DaemonNotRunning) -> dict[str, Any]:
    """What telemetry recorded; ``down`` with the reason when there is nothing."""
    from agent.telemetry.queries import last_placement

    try:
        placement = last_placement(folders.telemetry, model)
    except TelemetryError as error:
        raise DaemonNotRunning(f"{down} ({error})") from None
    if placement is None:
        raise DaemonNotRunning(f"{down} (no placement of {model!r} was recorded either)")
    return {"placement": placement}


def _changes(folders: Folders, model: str) -> list[dict[str, Any]]:
    """The last moves of the model that telemetry recorded."""
    from agent.telemetry.queries import last_changes

    try:
        return last_changes(folders.telemetry, model, CHANGES)
    except TelemetryError:  # said by overlaid telemetry
        return []


def _bench(args: argparse.Namespace) -> int:
    from agent.cli.front import front_of
    from agent.cli.progress import follow

    if args.plot:
        from agent.cli.picture import check_picture

        check_picture(args.plot)  # before candidates are measured for nothing
    folders = find_folders(args.config)
    # No time-out: it may wait for another measurement. The socket closes when the daemon goes away.
    answers = client.call(folders.control_socket, "bench", timeout_s=None, model=args.model)
    with interrupted("the bench is cancelled; what runs stays where it is"):
        found = follow(answers, args.model)
    front = front_of(found)
    if args.json:
        print_json({**found, "front": [asdict(point) for point in front.points]})
    else:
        _show_bench(found, front)
    if args.plot:
        _plot(front, f"{found['model']} {found['version']}", args.plot)
        if not args.json:
            print(f"wrote {args.plot}")
    return 0


def _show_bench(found: dict[str, Any], front: Front) -> None:
    from agent.cli.candidates import show_candidates
    from agent.cli.front import draw
    from agent.cli.views import budget, pairs, runs

    where = runs(found["candidate"]) if found["candidate"] else "nowhere"
    pairs(
        ("model", f"{found['model']} {found['version']}"),
        ("budget", budget(found["budget"])),
        ("runs", f"{where}, until the node's next look at what was measured"),
    )
    print()
    show_candidates(found, found["budget"]["rate_hz"])
    print()
    if front.points:
        for line in draw(front):
            print(line)
    else:
        print(NOTHING_TO_DRAW)


NOTHING_TO_DRAW = (
    "nothing to draw: no candidate has an energy figure; see the power meters of overlaid devices"
)


def _plot(front: Front, title: str, path: Path) -> None:
    from agent.cli.front_plot import plot

    if not front.points:
        raise UsageError(NOTHING_TO_DRAW)
    plot(front, title, path)
