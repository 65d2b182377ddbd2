"""What the operator's commands share: their parser, the operator's folder, targets, publishing a change."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import output
from agent.cli.output import Commands, print_json
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.actions import Change, Desk
    from agent.fleet.desired import Content
    from agent.link.topics import Target
    from agent.types import DesiredState


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    """As ``output.add_command``, with the option that names the operator's folder."""
    parser = output.add_command(commands, name, run, text, example)
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="the operator's folder (default: $OVERLAID_FLEET)"
    )
    return parser


def add_targets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("targets (at least one; may be repeated)")
    group.add_argument("--node", action="append", default=[], metavar="NODE")
    group.add_argument("--group", action="append", default=[], metavar="GROUP")


def targets_of(args: argparse.Namespace, site: str) -> list[Target]:
    """What ``add_targets``'s options name; UsageError when it is nothing, or not a name."""
    from agent.link.topics import Target

    try:
        targets = [Target(site, name) for name in args.node]
        targets += [Target(site, name, group=True) for name in args.group]
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not targets:
        raise UsageError("for whom? give --node NODE or --group GROUP, or several of them")
    return list(dict.fromkeys(targets))


def seconds(text: str) -> float:
    """An argparse type: a time-out in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to a day")
    return value


@contextlib.contextmanager
def open_desk(args: argparse.Namespace) -> Iterator[Desk]:
    """What is needed to act for the operator's folder. Raises ConfigError, TrustError, StoreError."""
    from agent.fleet.actions import Desk
    from agent.fleet.home import Home
    from agent.fleet.keys import COMMANDS, load_key
    from agent.fleet.operator import Operator

    home = Home(args.home)
    settings = home.load_settings()
    key = load_key(home, COMMANDS)
    with Operator(home.database) as operator:
        yield Desk(home, settings.fleet.site, settings.mqtt, operator, key)


def edited(desk: Desk, targets: list[Target], edit: Callable[[Content], Content]) -> Change:
    """The edit as a change of a target; tried on all of them first, so that a wrong one changes none."""
    from agent.fleet.desired import EMPTY, content_of

    for target in targets:
        latest = desk.operator.latest(target)
        with named(desk, target):
            edit(content_of(latest) if latest else EMPTY)
    return lambda target: desk.operator.revise(target, edit)


@contextlib.contextmanager
def named(desk: Desk, target: Target) -> Iterator[None]:
    """A refusal says for which target, and where to look."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{target}: {error}; what runs where: {desk.home.command('status')}") from error


def publish(args: argparse.Namespace, desk: Desk, targets: list[Target], change: Change) -> int:
    """Publish the change to the targets and say what each shall run now."""
    from agent.fleet.actions import apply

    states = asyncio.run(apply(desk, targets, change))
    if args.json:
        print_json({"published": _rows(states)})
        return 0
    for target, state in states.items():
        models = ", ".join(f"{model.name} {model.version}" for model in state.models) or "no models"
        cap = "" if state.power_cap_w is None else f", at most {state.power_cap_w:g} W"
        print(f"{target}: revision {state.revision} published: {models}{cap}")
        for binding in state.bindings:
            print(output.one_cell(f"  bound: {binding}"))
    return 0


def _rows(states: Mapping[Target, DesiredState]) -> list[dict[str, Any]]:
    from agent.types import to_jsonable

    return [{"target": str(target), **to_jsonable(state)} for target, state in states.items()]
