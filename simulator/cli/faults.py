"""``overlaid sim inject``, ``faults`` and ``clear``: break a node's simulated board while it runs."""

from __future__ import annotations

import argparse
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.output import Commands, add_command, add_config, add_json, print_json, print_table, quantity
from agent.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from simulator.cli.node_board import NodeBoard
    from simulator.faults import Fault, Happening, Kind
    from simulator.scenario.files import Scenario

# Unit of a kind of fault → the units that a value may be given in, and what they are worth.
_SCALES = {
    "C": {"C": 1.0},
    "W": {"W": 1.0, "mW": 1e-3},
    "s": {"s": 1.0, "ms": 1e-3, "m": 60.0, "h": 3600.0, "d": 86400.0},
    "MB/s": {"MB/s": 1.0, "kB/s": 1e-3},
}
_SHARE = {"%": 0.01}


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    from simulator.cli import show

    inject = add_command(
        commands, "inject", _inject, "break something on the node's simulated board, or all that a scenario breaks", ""
    )  # fmt: skip
    inject.formatter_class = argparse.RawDescriptionHelpFormatter
    inject.epilog = _kinds_help()
    inject.add_argument("kind", nargs="?", metavar="KIND", help="what happens: one of the kinds below")
    inject.add_argument("target", nargs="?", metavar="TARGET", help="the device or rail that it happens to")
    inject.add_argument(
        "--value", metavar="X", help="how much: a plain number, or with a unit (5W, 30C, 40%%)"
    )
    inject.add_argument(
        "--after", type=_seconds, metavar="S", help="seconds from now, or 2m, 1h (default: now)"
    )
    inject.add_argument(
        "--for", type=_seconds, dest="lasts", metavar="S", help="how long (default: until cleared)"
    )
    inject.add_argument(
        "--scenario", type=Path, metavar="FILE", help="all faults of a scenario, their times from now"
    )
    faults = add_command(
        commands, "faults", _faults, "what is injected into the node's board", "overlaid sim faults --json"
    )
    clear = add_command(
        commands, "clear", _clear, "end all faults that were injected into the node's board", "overlaid sim clear"
    )  # fmt: skip
    for parser in (inject, faults, clear):
        add_config(parser)
    for parser in (inject, faults):
        add_json(parser)
    show.register(commands)


def _kinds_help() -> str:
    from simulator.faults import KINDS

    lines = []
    for name, kind in KINDS.items():
        target = {"": "", "device": "DEVICE", "fpga": "DEVICE (an FPGA)", "rail": "RAIL"}[kind.target]
        value = f"value {kind.low:g} to {kind.high:g} {kind.unit}" if kind.unit else ""
        value += f", else {kind.default:g}" if kind.default is not None else ""
        needs = "; ".join(filter(None, (target, value))) or "the board"
        lines += [
            f"  {name:<21} {kind.text}",
            f"  {'':<21}   {needs}",
        ]
    examples = (
        "overlaid sim inject device-lost gpu --after 5s --for 30s",
        "overlaid sim inject thermal-step --value 30C",
        "overlaid sim inject clock-jump --value=-1h",
        "overlaid sim inject co-tenant cpu --value 40% --for 2m",
        "overlaid sim inject --scenario thermal.toml",
    )
    return "\n".join(["kinds:", *lines, "", *(f"example: {text}" for text in examples)])


def _seconds(text: str) -> float:
    """An argparse type: plain seconds, or a span with a unit."""
    try:
        value = float(text)
    except ValueError:
        value = quantity("span")(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be 0 or more seconds")
    return value


def _inject(args: argparse.Namespace) -> int:
    from simulator.cli.node_board import find_node_board
    from simulator.faults import Happening, check_faults

    if args.scenario is None:
        seed, new = None, [_fault(args)]
        board = find_node_board(args.config)
    else:
        scenario = _scenario(args)
        seed, new = scenario.seed, list(scenario.faults)
        board = find_node_board(args.config)
        if scenario.board != board.profile.name:
            raise UsageError(
                f"{args.scenario} is for the board {scenario.board}, the node has {board.profile.name}: set board = "
                f'"sim:{scenario.board}" under [node] in its configuration and restart it, or take another scenario'
            )
    try:
        check_faults(new, board.profile)
    except ConfigError as error:
        raise UsageError(f"{error}; see: overlaid sim boards {board.profile.name}") from error
    with board.alone() as file:
        now = time.monotonic()
        old_seed, timeline = file.read()
        happenings = [Happening.of(fault, now) for fault in new]
        file.write(old_seed if seed is None else seed, [*timeline.happenings, *happenings])
    if args.json:
        print_json([_told(happening, now) for happening in happenings])
    else:
        for happening in happenings:
            told = _told(happening, now)
            print(f"{board.profile.name}: {told['text']}, {state_text(told)}")
        print("see: overlaid sim faults; end them: overlaid sim clear")
    return 0


def _scenario(args: argparse.Namespace) -> Scenario:
    """UsageError when it breaks nothing or other options say what to break."""
    if args.kind or any(each is not None for each in (args.target, args.value, args.after, args.lasts)):
        raise UsageError("--scenario brings kinds, targets, values and times of its own: give it alone")
    from simulator.scenario.files import read_scenario

    scenario = read_scenario(args.scenario)
    if not scenario.faults:
        raise UsageError(f"{args.scenario} has no [[faults]]: there is nothing to inject")
    return scenario


def _fault(args: argparse.Namespace) -> Fault:
    """The fault that the options describe; UsageError when there is no such fault."""
    from pydantic import ValidationError

    from simulator.faults import KINDS, Fault

    if args.kind not in KINDS:
        what = (
            f"there is no fault {args.kind!r}" if args.kind else "say what happens: KIND or --scenario FILE"
        )
        raise UsageError(f"{what}; kinds are {', '.join(KINDS)} (see overlaid sim inject --help)")
    try:
        return Fault(
            kind=args.kind,
            target=args.target or "",
            value=_value(KINDS[args.kind], args.value),
            at_s=args.after or 0.0,
            for_s=args.lasts,
        )
    except ValidationError as error:
        raise UsageError(f"{_explain(error)}; see: overlaid sim inject --help") from error


def _explain(error: ValidationError) -> str:
    options: dict[tuple[int | str, ...], str] = {("at_s",): "--after: ", ("for_s",): "--for: "}
    return "; ".join(
        options.get(problem["loc"], "") + problem["msg"].removeprefix("Value error, ")
        for problem in error.errors()
    )


def _value(kind: Kind, text: str | None) -> float | None:
    """``text`` in the kind's own unit; UsageError for another unit or no number."""
    if text is None:
        return None
    scales = _SCALES.get(kind.unit, _SHARE)
    units = {name.lower(): scale for name, scale in scales.items()}
    match = re.fullmatch(r"([+-]?[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*°?([a-z/%]*)", text.strip().lower())
    if match is None or (match.group(2) and match.group(2) not in units):
        what = f"a number in {kind.unit}" if kind.unit in _SCALES else "a number"
        raise UsageError(f"--value {text!r} is not {what}; a plain one, or with {' or '.join(scales)}")
    return float(match.group(1)) * (units[match.group(2)] if match.group(2) else 1.0)


def _faults(args: argparse.Namespace) -> int:
    from simulator.cli.node_board import find_node_board

    board = find_node_board(args.config)
    told = describe_faults(board)
    if args.json:
        print_json({"board": board.profile.name, "faults": told})
    elif told:
        print_table(("FAULT", "STATE"), [(each["text"], state_text(each)) for each in told])
    else:
        print(f"nothing is injected into {board.profile.name}; see: overlaid sim inject --help")
    return 0


def _clear(args: argparse.Namespace) -> int:
    from simulator.cli.node_board import find_node_board

    board = find_node_board(args.config)
    with board.alone() as file:
        file.write(0, [])
    print(f"{board.profile.name}: no faults are injected any more")
    return 0


def describe_faults(board: NodeBoard) -> list[dict[str, Any]]:
    """What is injected, in the order of injection; ``_told`` says what each holds."""
    now = time.monotonic()
    return [_told(happening, now) for happening in board.faults.read()[1].happenings]


def _told(happening: Happening, now: float) -> dict[str, Any]:
    """A fault as JSON: ``starts_in_s`` is 0 once it began, ``left_s`` None when it lasts until it is cleared."""
    from simulator.faults import KINDS

    fault, kind = happening.fault, KINDS[happening.fault.kind]
    over = happening.end <= now
    forever = math.isinf(happening.end)
    value = f"{fault.amount:g} {kind.unit}" if kind.unit else ""
    return {
        "text": " ".join(filter(None, (fault.kind, fault.target, value))),
        "kind": fault.kind,
        "target": fault.target or None,
        "value": fault.amount if kind.unit else None,
        "unit": kind.unit or None,
        "state": "over" if over else "active" if happening.start <= now else "coming",
        "starts_in_s": max(0.0, happening.start - now),
        "left_s": None if forever else max(0.0, happening.end - now),
        "lasts_s": None if forever else happening.end - happening.start,
    }


def state_text(told: dict[str, Any]) -> str:
    """``active for 12 s more``, ``in 3 s, for 30 s``, ``over``."""
    if told["state"] == "over":
        return "over"
    if told["state"] == "active":
        return (
            "active until it is cleared"
            if told["left_s"] is None
            else f"active for {told['left_s']:.0f} s more"
        )
    lasts = "until it is cleared" if told["lasts_s"] is None else f"for {told['lasts_s']:g} s"
    return f"in {told['starts_in_s']:.0f} s, {lasts}"
