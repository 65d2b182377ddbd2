"""``overlaid service``: the systemd service, where overlaid came by pipx or pip."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.cli.output import DAEMON_DOWN, Commands, add_command, add_json, print_json, print_table

if TYPE_CHECKING:
    from agent.setup.service import Plan


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    service = commands.add_parser(
        "service",
        help="overlaid as a systemd service: install, uninstall, status",
        description="Makes overlaid a systemd service where it was installed by pipx or pip. "
        "Debian's package brings the service itself.",
        epilog="example: sudo overlaid service install",
    )
    inner = service.add_subparsers(dest="service_command", required=True, metavar="COMMAND")
    install = add_command(
        inner,
        "install",
        _install,
        "write unit, user, permissions and sample configuration, and start the service; after an upgrade again",
        "sudo overlaid service install",
    )
    uninstall = add_command(
        inner,
        "uninstall",
        _uninstall,
        "stop the service and remove its files; configuration and state stay",
        "sudo overlaid service uninstall",
    )
    uninstall.add_argument(
        "--purge", action="store_true", help="remove configuration, state, user and group as well"
    )
    for parser in (install, uninstall):
        parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    status = add_command(
        inner,
        "status",
        _status,
        "what of the service is installed and whether it runs; exit code 3 when it does not",
        "overlaid service status",
    )
    add_json(status)


def _install(args: argparse.Namespace) -> int:
    from agent.setup import service

    plan = service.installation()
    if not _done(args, plan, "install", service.check):
        return 0
    print("overlaid runs as a service: systemctl status overlaid")
    print("its users join its group: sudo usermod --append --groups overlaid NAME")
    return 0


def _uninstall(args: argparse.Namespace) -> int:
    from agent.setup import service

    plan = service.removal(args.purge, accounts=service.account_removal())
    if _done(args, plan, f"uninstall{' --purge' if args.purge else ''}", service.check_removable):
        kept = "" if args.purge else f"; kept: {', '.join(map(str, service.KEPT))}, the user overlaid"
        print(f"the service is removed{kept}")
    return 0


def _done(args: argparse.Namespace, plan: Plan, command: str, check: Callable[[], None]) -> bool:
    """False after a dry run, which prints; what ``check`` raises, and UsageError without root."""
    from agent.setup import service

    if args.dry_run:
        print("\n".join(service.lines(plan)))
    check()
    if args.dry_run:
        return False
    service.need_root(f"service {command}", os.geteuid())
    service.carry_out(plan)
    return True


def _status(args: argparse.Namespace) -> int:
    from agent.setup import service

    found = service.state()
    if args.json:
        print_json(found)
    else:
        if found.files:
            print_table(("file", "state"), list(found.files.items()))
            print()
        print(f"installed by {found.installed_by}; {found.active}, {found.enabled}")
        if found.text:
            print(found.text)
    return 0 if found.active == "active" else DAEMON_DOWN
