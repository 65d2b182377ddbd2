"""How commands print: tables for people, JSON for scripts, parsers of quantities with units."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

WRONG_USAGE = 2  # argparse's own exit code, and that of a UsageError
DAEMON_DOWN = 3  # the exit code of a command that needs the daemon, and of status with an old snapshot


Commands = argparse._SubParsersAction  # one of argparse's types that has no public name


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    """A command that ``run`` carries out, with an example in its help."""
    sentence = f"{text[0].upper()}{text[1:]}."
    parser = commands.add_parser(name, help=text, description=sentence, epilog=f"example: {example}")
    parser.set_defaults(run=run)
    return parser


@contextlib.contextmanager
def interrupted(what: str) -> Iterator[None]:
    """When Ctrl-C ends the block, say in a line what goes on or was undone; KeyboardInterrupt all the same."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; {what}", file=sys.stderr)
        raise


def print_json(value: Any) -> None:
    """One JSON document on stdout; values of ``agent.types`` may be in it."""
    from agent.types import to_jsonable

    print(json.dumps(to_jsonable(value), indent=2, sort_keys=True))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    below: Sequence[str | None] = (),
) -> None:
    """Aligned columns; None prints as a dash. On a terminal the last column wraps to its width, and so does ``below``:
    for each row a text on lines of its own.

    Written without rich, whose import alone would cost ``overlaid status`` a third of its time.
    """
    cells = [[one_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    if title:
        print(title)
    for line in (list(columns), ["-" * width for width in widths]):
        print(_table_line(line, widths, right))
    for line, text in itertools.zip_longest(cells, below):
        print(_table_line(line, widths, right))
        if text:
            print_wrapped(text, "    ")


def print_wrapped(text: str, indent: str = "", further: str | None = None) -> None:
    """One text without control characters, on a terminal wrapped to its width; ``further``: indent of later lines."""
    width = max(24, terminal_columns())
    later = indent if further is None else further
    filled = textwrap.fill(
        one_cell(text), width, initial_indent=indent, subsequent_indent=later, break_on_hyphens=False
    )
    print(filled)


def terminal_columns() -> int:
    """Of the terminal; as many as there may be where there is none."""
    return shutil.get_terminal_size((1 << 20, 24)).columns


def _table_line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    *head, last = (
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(cells, widths, right, strict=True)
    )
    lead = "".join(f"{text}  " for text in head)
    room = max(24, terminal_columns() - len(lead))
    if set(last) == {"-"}:
        last = last[:room]
    lines = textwrap.wrap(last.rstrip(), room) if len(last.rstrip()) > room else [last]
    return ("\n" + " " * len(lead)).join([lead + lines[0], *lines[1:]]).rstrip()


def one_cell(value: object) -> str:
    """One line without control characters: texts from outside must not steer the terminal."""
    text = "-" if value is None or value == "" else " ".join(str(value).split())
    return "".join(char if char.isprintable() else "?" for char in text)


def _is_number(value: object) -> bool:
    try:
        float(str(value)) if value is not None else None
    except ValueError:
        return False
    return True


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


def add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration of the node (default: $OVERLAID_CONFIG, else /etc/overlaid/agent.toml)",
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    """The options of a Budget, the same for the operator and for local deployments."""
    parser.add_argument(
        "--latency-p99",
        type=quantity("latency"),
        metavar="20ms",
        help="99th percentile latency bound; every model needs it, an FPGA overlay does not",
    )
    parser.add_argument(
        "--rate", type=quantity("rate"), metavar="10/s", help="intended request rate; needed as well"
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


def add_instances(parser: argparse.ArgumentParser) -> None:
    """How many runs of a model may go on at a time."""
    parser.add_argument(
        "--instances",
        type=_instances,
        default=1,
        metavar="1-16",
        help="runs at a time, each with a copy of the model (default 1; on a GPU or an FPGA always 1)",
    )


def _instances(text: str) -> int:
    from agent.types import MAX_INSTANCES

    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_INSTANCES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_INSTANCES}")
    return int(text)


NO_BOUND_MS = 3_600_000.0  # the largest that a budget takes
_BUDGET_OPTIONS = {
    "latency_p99_ms": "--latency-p99 in ms",
    "rate_hz": "--rate in 1/s",
    "power_w": "--power in W",
    "min_accuracy": "--min-accuracy",
    "priority": "--priority",
}


def budget_of(args: argparse.Namespace, is_overlay: Callable[[], bool]) -> Any:
    """The Budget that ``add_budget``'s options describe; UsageError, naming the option, when out of range or missing.

    ``is_overlay``, asked when one is missing: an FPGA overlay answers no requests and needs none.
    """
    from agent.errors import UsageError
    from agent.types import Budget

    bounds = {"--latency-p99": args.latency_p99, "--rate": args.rate}
    missing = [option for option, value in bounds.items() if value is None]
    if missing and not is_overlay():
        raise UsageError(f"a model needs {' and '.join(missing)}, e.g. --latency-p99 20ms --rate 10/s")
    latency_p99_ms = NO_BOUND_MS if args.latency_p99 is None else args.latency_p99
    try:
        return Budget(latency_p99_ms, args.rate or 0.0, args.power, args.min_accuracy, args.priority)
    except ValueError as error:
        field, _, text = str(error).partition(" ")
        raise UsageError(f"{_BUDGET_OPTIONS.get(field, field)} {text}") from error
