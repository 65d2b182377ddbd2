"""What the operator's commands share: their parser, the operator's folder, targets."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import output
from agent.cli.output import Commands
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.actions import Desk
    from agent.link.topics import Target


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
