"""``overlaid logs``: from the journal or, where the daemon does not log there, the events of telemetry.db."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.output import Commands, add_command, add_config, one_cell, quantity
from agent.errors import TelemetryError, UsageError, one_line

if TYPE_CHECKING:
    from agent.logs.rows import LogRow, Wanted
    from agent.paths import Folders

LOOK_S = 0.5
MAX_LINES = 100_000


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "what the daemon and its workers logged"
    logs = add_command(commands, "logs", _logs, text, "overlaid logs --model digits --since 1h")
    logs.add_argument("--model", metavar="MODEL", help="only what is about this model")
    logs.add_argument("--deployment", type=int, metavar="ID", help="only what is about this deployment")
    logs.add_argument("--device", metavar="DEVICE", help="only what is about this device, e.g. gpu0")
    logs.add_argument("--since", type=quantity("span"), metavar="1h", help="not older than this")
    logs.add_argument("--lines", type=int, default=100, metavar="100", help="the newest ones (default 100)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with new ones until interrupted")
    logs.add_argument("--json", action="store_true", help="one JSON object a line")
    add_config(logs)


def _logs(args: argparse.Namespace) -> int:
    from agent.logs.rows import Wanted
    from agent.paths import find_folders

    if not 1 <= args.lines <= MAX_LINES:
        raise UsageError(f"--lines must be 1 to {MAX_LINES}")
    since = None if args.since is None else time.time() - args.since
    wanted = Wanted(args.lines, since, args.model, args.deployment, args.device)
    for row in _rows(find_folders(args.config), wanted, args.follow):
        _show(row, args.json)
    return 0


def _rows(folders: Folders, wanted: Wanted, following: bool) -> Iterator[LogRow]:
    import getpass

    from agent.logs import journalctl

    allowed, why = journalctl.access(), ""
    if allowed == "readable":
        daemon = journalctl.Daemon.on(folders.state)
        rows, cursor = journalctl.newest(daemon, wanted)
        if rows or journalctl.logs_there(daemon):
            yield from rows
            if following:
                yield from journalctl.follow(daemon, wanted, cursor)
            return
    elif allowed == "refused":
        why = (
            "you may not read the journal; join its group (sudo usermod -aG systemd-journal "
            f"{getpass.getuser()}, then log in again) or use sudo"
        )
    yield from _events(folders.telemetry, wanted, following, why)


def _events(path: Path, wanted: Wanted, following: bool, why: str) -> Iterator[LogRow]:
    """``why``: the journal was not read."""
    from agent.logs.rows import of_event
    from agent.telemetry import queries

    if wanted.deployment is not None or wanted.device is not None:
        raise UsageError(
            "--deployment and --device need the journal: recorded events do not tell them; "
            + (
                why
                or "the daemon logs there as a systemd service; what it wrote to stderr is where that went"
            )
        )
    try:
        events = queries.recent_events(path, wanted.lines, wanted.since or 0.0, wanted.model)
        last = max((event["id"] for event in queries.recent_events(path, 1)), default=0)
    except TelemetryError as error:
        raise TelemetryError(f"{one_line(error)}; {why}" if why else one_line(error)) from error
    source = "these are the events that it recorded"
    print(f"{why or 'this daemon does not log to the journal'}; {source}:", file=sys.stderr, flush=True)
    yield from map(of_event, events)
    while following:
        time.sleep(LOOK_S)
        for event in queries.events_after(path, last, wanted.model):
            last = event["id"]
            yield of_event(event)


def _show(row: LogRow, as_json: bool) -> None:
    from agent.logs.rows import line

    if as_json:
        print(json.dumps(row.to_json()), flush=True)
        return
    first, *more = line(row.to_json()).splitlines() or [""]
    print(one_cell(first), flush=True)
    for text in more:  # of a traceback, whose indents mean something
        indent = len(text) - len(text.lstrip())
        print(f"    {' ' * min(indent, 40)}{one_cell(text)}", flush=True)
