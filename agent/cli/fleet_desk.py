"""What the operator's commands share: their parser, the operator's folder, targets."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.actions import Desk
    from agent.fleet.home import Home
    from agent.link.topics import Target

Commands = argparse._SubParsersAction  # one of argparse's types that has no public name


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    """A command with an example in its help and the option that names the operator's folder."""
    description = text[0].upper() + text[1:] + "."
    parser = commands.add_parser(name, help=text, description=description, epilog=f"example: {example}")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="the operator's folder (default: $OVERLAID_FLEET)"
    )
    parser.set_defaults(run=run)
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
def open_desk(args: argparse.Namespace) -> Iterator[tuple[Home, Desk]]:
    """The operator's folder and what is needed to act for it. Raises ConfigError, TrustError, StoreError."""
    from agent.fleet.actions import Desk
    from agent.fleet.home import Home
    from agent.fleet.keys import COMMANDS, load_key
    from agent.fleet.operator import Operator

    home = Home(args.home)
    settings = home.load_settings()
    key = load_key(home, COMMANDS)
    with Operator(home.database) as operator:
        yield home, Desk(settings.fleet.site, settings.mqtt, operator, key)
