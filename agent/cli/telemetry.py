"""``overlaid telemetry``: what the node recorded, read with sqlite-utils."""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.output import Commands, add_command, add_config, add_json, print_json, print_table, quantity
from agent.errors import TelemetryError
from agent.paths import find_folders

if TYPE_CHECKING:
    from agent.telemetry.queries import Query, Row

EVENTS_SHOWN = 20
CSV_COLUMNS = (
    "time", "model", "version", "variant", "backend", "device", "requests", "errors", "p50_ms", "p99_ms",
)  # fmt: skip


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "latency, power, deployments, placements and events that the node recorded, also while the daemon is down"
    example = "overlaid telemetry --since 1h --model digits --plot digits.png"
    parser = add_command(commands, "telemetry", _telemetry, text, example)
    add_config(parser)
    parser.add_argument(
        "--since", type=quantity("span"), default=3600.0, metavar="1h", help="how far back (default 1h)"
    )
    parser.add_argument("--model", metavar="MODEL", help="only this model; power is that of the whole node")
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument(
        "--csv",
        action="store_true",
        help="print the latency table, one row per model, placement and interval (the rest is in --json)",
    )
    form.add_argument(
        "--plot", type=Path, metavar="OUT.png", help="draw latency and power over time (extra: plot)"
    )


def _telemetry(args: argparse.Namespace) -> int:
    path = find_folders(args.config).telemetry
    now = time.time()
    since = now - args.since
    with _database(path) as query:
        if args.json:
            print_json(_everything(query, since, now, args.model))
        elif args.csv:
            _print_csv(query, since, args.model)
        elif args.plot:
            from agent.cli.plot import plot

            plot(query, since, args.model, args.plot)
            print(f"wrote {args.plot}")
        else:
            _print_tables(query, since, args.model, path)
    return 0


@contextlib.contextmanager
def _database(path: Path) -> Iterator[Query]:
    import sqlite3

    from sqlite_utils import Database

    from agent.telemetry.schema import open_for_reading

    with contextlib.closing(open_for_reading(path)) as connection:
        try:
            yield Database(connection).query
        except sqlite3.Error as error:
            raise TelemetryError(f"cannot read {path}: {error}") from error


def _everything(query: Query, since: float, until: float, model: str | None) -> Row:
    from agent.telemetry import queries

    return {
        "since": since,
        "until": until,
        "summary": {
            "latency": queries.latency_summary(query, since, model),
            "power": queries.power_summary(query, since),
        },
        "latency": queries.latency(query, since, model),
        "power": queries.power(query, since),
        "deployments": queries.deployments(query, since, model),
        "placements": queries.placements(query, since, model),
        "events": queries.events(query, since, model),
    }


def _print_csv(query: Query, since: float, model: str | None) -> None:
    from agent.telemetry.queries import latency

    table = csv.DictWriter(sys.stdout, CSV_COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(latency(query, since, model))


def _print_tables(query: Query, since: float, model: str | None, path: Path) -> None:
    from agent.cli.views import clock, number, runs
    from agent.telemetry import queries

    print(f"{path}, since {clock(since)}")
    _print_section(
        "latency",
        ("MODEL", "VERSION", "RUNS", "REQUESTS", "ERRORS", "P50 MS", "P99 MS"),
        [
            (row["model"], row["version"], runs(row), row["requests"], row["errors"], number(row["p50_ms"]),
             number(row["p99_ms"]))
            for row in queries.latency_summary(query, since, model)
        ],
    )  # fmt: skip
    _print_section(
        "power",
        ("RAIL", "AVERAGE W", "MAX W", "SAMPLES", "TAG"),
        [
            (row["rail"], number(row["average_w"]), number(row["max_w"]), row["samples"], row["tag"])
            for row in queries.power_summary(query, since)
        ],
    )
    _print_section(
        "deployments",
        ("TIME", "MODEL", "VERSION", "STATE", "PHASE", "WHY"),
        [
            (clock(row["time"]), row["model"], row["version"], row["state"], row["phase"], row["why"])
            for row in _outcomes(queries.deployments(query, since, model))
        ],
    )
    _print_section(
        "placements",
        ("TIME", "MODEL", "VERSION", "RUNS", "WHY"),
        [
            (clock(row["time"]), row["model"], row["version"], runs(row["candidate"]), row["reason"])
            for row in queries.placements(query, since, model)
        ],
    )
    events = queries.events(query, since, model)
    _print_section(
        f"events (the newest {EVENTS_SHOWN} of {len(events)})" if len(events) > EVENTS_SHOWN else "events",
        ("TIME", "KIND", "MODEL", "TEXT"),
        [(clock(row["time"]), row["kind"], row["model"], row["text"]) for row in events[-EVENTS_SHOWN:]],
    )


def _print_section(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print()
    if rows:
        print_table(columns, rows, title)
    else:
        print(f"{title}: none")


def _outcomes(rows: Sequence[Row]) -> list[Row]:
    """The steps that ended a deployment, and each model's newest step."""
    newest = {row["model"]: index for index, row in enumerate(rows)}
    return [
        row
        for index, row in enumerate(rows)
        if row["state"] not in {"QUEUED", "IN_PROGRESS"} or newest[row["model"]] == index
    ]
