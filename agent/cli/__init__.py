"""The ``overlaid`` command.

Each command module registers its parsers and imports what it needs when it runs: ``overlaid status`` must answer in
less than 200 ms, so nothing here imports pydantic, rich or a room at module level.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from agent.cli import doctor, explain, init, logs, node, overlay, service, telemetry
from agent.cli.output import DAEMON_DOWN, WRONG_USAGE, Commands
from agent.errors import DaemonNotRunning, OverlaidError, RuntimeUnavailable, UsageError, one_line

EXIT_CODES: dict[type[OverlaidError], int] = {UsageError: WRONG_USAGE, DaemonNotRunning: DAEMON_DOWN}
GROUP = "overlaid.commands"
NEGATIVE = re.compile(r"-\.?[0-9]")
HELP = {"sim": "boards without hardware: scenarios, faults, many nodes"}


def build_parser(with_fleet: bool = True, first: str | None = None) -> argparse.ArgumentParser:
    """All commands; those of the operator only ``with_fleet``, so that a node's command does not wait for them.

    ``first``: the first word of the command line. What others install is looked for unless it is one of ours.
    """
    parser = argparse.ArgumentParser(
        prog="overlaid",
        description="Deploys signed ML models to edge nodes and serves them within latency and power budgets.",
        epilog="example: overlaid status --watch",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init.register(commands)
    node.register(commands)
    doctor.register(commands)
    explain.register(commands)
    telemetry.register(commands)
    service.register(commands)
    logs.register(commands)
    overlay.register(commands)
    fleet = commands.add_parser(
        "fleet",
        help="the operator's side: keys, packages, deployments",
        description="The operator's side of the wire: make keys, pack and publish models, deploy them to nodes.",
        epilog="example: overlaid fleet deploy digits@1.0.0 --node cam-7 --latency-p99 20ms --rate 10/s",
    )
    if with_fleet:
        from agent.cli import fleet_enrol, fleet_operate, fleet_package, fleet_repo

        fleet_commands = fleet.add_subparsers(dest="fleet_command", required=True, metavar="COMMAND")
        fleet_package.register(fleet_commands)
        fleet_repo.register(fleet_commands)
        fleet_operate.register(fleet_commands)
        fleet_enrol.register(fleet_commands)
    if first not in commands.choices:
        _add_installed(commands, first)
    return parser


def _add_installed(commands: Commands[argparse.ArgumentParser], first: str | None) -> None:
    """Commands of the entry-point group ``overlaid.commands``; only the one that is asked for is imported."""
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        text = HELP.get(point.name, f"commands of {point.value.partition('.')[0]}")
        parser = commands.add_parser(point.name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if point.name == first:
            try:
                register = point.load()
            except (ImportError, AttributeError) as error:
                raise RuntimeUnavailable(
                    f"{point.name} cannot be loaded: {one_line(error)}; pip install 'overlaid[{point.name}]'"
                ) from error
            parser.epilog = f"example: overlaid {point.name} COMMAND --help"
            register(parser.add_subparsers(dest=f"{point.name}_command", required=True, metavar="COMMAND"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 it failed (reason on stderr), 2 wrong usage, 3 the daemon is down,
    130 interrupted."""
    argv = _joined(sys.argv[1:] if argv is None else argv)
    first = argv[0] if argv else None
    try:
        args = build_parser(with_fleet=first == "fleet", first=first).parse_args(argv)
        return int(args.run(args) or 0)
    except OverlaidError as error:
        print(f"overlaid: {error.name}: {error}", file=sys.stderr)
        return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"overlaid: {type(error).__name__}: {what}; {_way_out(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _joined(argv: Sequence[str]) -> list[str]:
    """``--value -20C`` as ``--value=-20C``: argparse takes a quantity that begins with a minus for an option."""
    joined: list[str] = []
    for text in argv:
        if joined and re.fullmatch(r"--[a-z0-9-]+", joined[-1]) and NEGATIVE.match(text):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def _way_out(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"this user (uid {os.geteuid()}) may not do that: run it as the owner of the file, or give another path"
    return "check the path and the disk"
