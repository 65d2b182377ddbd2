"""How commands print: tables for people, JSON for scripts, parsers of quantities with units."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any

from agent.types import to_jsonable


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(to_jsonable(value), indent=2, sort_keys=True))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """A table as wide as the terminal; None prints as a dash."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    Console().print(table)


_UNITS = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "rate": {"/s": 1.0, "hz": 1.0, "/min": 1 / 60, "/h": 1 / 3600},
    "power": {"mw": 1e-3, "w": 1.0},
    "span": {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0},
}
_EXAMPLES = {"latency": "20ms", "rate": "10/s", "power": "0.5W", "span": "1h"}


def quantity(kind: str) -> Any:
    """An argparse type for ``latency`` (→ ms), ``rate`` (→ 1/s), ``power`` (→ W) or ``span`` (→ s); units required."""

    def parse(text: str) -> float:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z/]+)", text.strip().lower())
        scale = _UNITS[kind].get(match.group(2)) if match else None
        if match is None or scale is None:
            units = ", ".join(_UNITS[kind])
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a {kind}: a number with a unit ({units}), e.g. {_EXAMPLES[kind]}"
            )
        return float(match.group(1)) * scale

    return parse


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def add_budget(parser: argparse.ArgumentParser) -> None:
    """The options of a Budget, the same for the operator and for local deployments."""
    parser.add_argument(
        "--latency-p99",
        type=quantity("latency"),
        required=True,
        metavar="20ms",
        help="99th percentile latency bound",
    )
    parser.add_argument(
        "--rate", type=quantity("rate"), required=True, metavar="10/s", help="intended request rate"
    )
    parser.add_argument(
        "--power", type=quantity("power"), metavar="0.5W", help="bound on the model's own average power"
    )
    parser.add_argument("--min-accuracy", type=float, metavar="0.97", help="accuracy floor, 0..1")
    parser.add_argument(
        "--priority",
        type=int,
        default=0,
        metavar="0-9",
        help="who keeps running when not all fit (default 0)",
    )


def budget_of(args: argparse.Namespace) -> Any:
    """The Budget that ``add_budget``'s options describe; UsageError when out of range."""
    from agent.errors import UsageError
    from agent.types import Budget

    try:
        return Budget(args.latency_p99, args.rate, args.power, args.min_accuracy, args.priority)
    except ValueError as error:
        raise UsageError(str(error)) from error
