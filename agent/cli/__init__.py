"""The ``overlaid`` command.

Each command module registers its parsers and imports what it needs when it runs: ``overlaid status`` must answer in
less than 200 ms, so nothing here imports pydantic, rich or a room at module level.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from agent.cli import node, telemetry
from agent.cli.output import DAEMON_DOWN, WRONG_USAGE
from agent.errors import DaemonNotRunning, OverlaidError, UsageError

EXIT_CODES: dict[type[OverlaidError], int] = {UsageError: WRONG_USAGE, DaemonNotRunning: DAEMON_DOWN}


def build_parser(with_fleet: bool = True) -> argparse.ArgumentParser:
    """All commands; those of the operator only ``with_fleet``, so that a node's command does not wait for them."""
    parser = argparse.ArgumentParser(
        prog="overlaid",
        description="Deploys signed ML models to edge nodes and serves them within latency and power budgets.",
        epilog="example: overlaid status --watch",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    node.register(commands)
    telemetry.register(commands)
    fleet = commands.add_parser(
        "fleet",
        help="the operator's side: keys, packages, deployments",
        description="The operator's side of the wire: make keys, pack and publish models, deploy them to nodes.",
        epilog="example: overlaid fleet deploy digits@1.0.0 --node cam-7 --latency-p99 20ms --rate 10/s",
    )
    if with_fleet:
        from agent.cli import fleet_operate, fleet_package

        fleet_commands = fleet.add_subparsers(dest="fleet_command", required=True, metavar="COMMAND")
        fleet_package.register(fleet_commands)
        fleet_operate.register(fleet_commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 it failed (reason on stderr), 2 wrong usage, 3 the daemon is down,
    130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser(with_fleet="fleet" in argv[:1]).parse_args(argv)
    try:
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


def _way_out(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"this user (uid {os.geteuid()}) may not do that: run it as the owner of the file, or give another path"
    return "check the path and the disk"
