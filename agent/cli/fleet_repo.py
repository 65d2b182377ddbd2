"""``overlaid fleet repo``: what nodes may install, and who signs for that."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.fleet_desk import add_command
from agent.cli.fleet_package import add_package, publish_package
from agent.cli.output import Commands, add_json, print_json, print_table, print_wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.fleet.repo.repo import Outcome, Repo
    from agent.fleet.repo.status import RepoStatus, RoleStatus

ROTATE = """Replace the keys of a role, all of them or the one that is lost. Roles: root (2 of 3 keys, offline), targets
(offline: which team signs which models), online (snapshot and timestamp: what is current), and every team. Nodes take
the new keys with their next installation. With one key of root lost the other two suffice. When keys at hand are too
few, the change is staged until `repo sign` finds the rest. Rotating online makes nodes forget how new the metadata was
that they saw. Do that, too, after restoring the operator's folder from an older backup, whose metadata nodes would
refuse as a rollback (twice, when root was changed since that backup)."""


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "say which packages nodes may install: keys, teams, signatures"
    parser = commands.add_parser(
        "repo",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="example: overlaid fleet repo status",
    )
    repo = parser.add_subparsers(dest="repo_command", required=True, metavar="COMMAND")

    text = "make the repository: offline keys for root (2 of 3) and targets, an online key, a team that signs packages"
    init = add_command(repo, "init", _init, text, "overlaid fleet repo init --offline /media/stick")
    text = "where the keys of root and targets go (default: offline/ in the operator's folder)"
    init.add_argument("--offline", type=Path, metavar="DIR", help=text)
    init.add_argument("--team", default="packages", metavar="NAME", help="the first team (default: packages)")

    text = "keep a package where fleet serve answers from, and let nodes install it; the same as overlaid fleet publish"
    add_package(add_command(repo, "add", publish_package, text, "overlaid fleet repo add digits-1.0.0"))

    text = "let a team sign models of its own, which no other team can sign then; its key is made when there is none"
    example = "overlaid fleet repo delegate vision 'digits/*' 'camera-*/*' --offline /media/stick"
    delegate = add_command(repo, "delegate", _delegate, text, example)
    delegate.add_argument("team", metavar="TEAM")
    text = "models by name, e.g. 'digits/*'; * is any text, ? any character"
    delegate.add_argument("patterns", nargs="+", metavar="PATTERN", help=text)

    text = "sign what is staged with the keys that are here, and renew what expires"
    sign = add_command(repo, "sign", _sign, text, "overlaid fleet repo sign --offline /media/stick")

    text = "replace the keys of a role"
    rotate = add_command(
        repo, "rotate", _rotate, text, "overlaid fleet repo rotate root --lost root-2 --offline DIR"
    )
    rotate.description = " ".join(ROTATE.split())
    rotate.add_argument("role", metavar="ROLE", help="root, targets, online or a team")
    rotate.add_argument(
        "--lost", metavar="KEY", help="only this key, which is not needed for it, e.g. root-2"
    )

    text = (
        "show roles, keys, dates, what is staged and what to do next; exit code 1 when something has expired"
    )
    status = add_command(repo, "status", _status, text, "overlaid fleet repo status --json")
    for command in (delegate, sign, rotate):
        text = "folder with keys of root or targets, e.g. a USB stick; may be repeated (offline/ is always looked into)"
        command.add_argument("--offline", type=Path, action="append", default=[], metavar="DIR", help=text)
    for command in (init, delegate, sign, rotate, status):
        add_json(command)


def _init(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home
    from agent.fleet.repo import Repo

    home = Home(args.home)
    outcome = Repo(home).init(args.offline, args.team)
    root = home.repo / "root.json"
    if args.json:
        print_json({"root": str(root), "made": outcome.made, "published": outcome.published})
        return 0
    print(f"made {home.repo} and {len(outcome.made)} keys:")
    for path in outcome.made:
        print(f"  {path}")
    print(
        f'next: copy {root} to each node and name it in its config: [trust] root = "/etc/overlaid/root.json"'
    )
    print(
        f"      move {args.offline or home.offline} to a safe place: whoever has 2 keys of root, or that of targets, "
        "decides what nodes install"
    )
    print(f"      {home.command('publish OUT')}")
    return 0


def _delegate(args: argparse.Namespace) -> int:
    return _change(args, lambda repo: repo.delegate(args.team, args.patterns, args.offline))


def _sign(args: argparse.Namespace) -> int:
    return _change(args, lambda repo: repo.sign(args.offline))


def _rotate(args: argparse.Namespace) -> int:
    return _change(args, lambda repo: repo.rotate(args.role, args.offline, args.lost))


def _change(args: argparse.Namespace, change: Callable[[Repo], Outcome]) -> int:
    """Say what a change of what is signed offline did, and what to do next."""
    from agent.fleet.home import Home
    from agent.fleet.repo import Repo

    repo = Repo(Home(args.home))
    outcome = change(repo)
    if args.json:
        print_json(outcome)
        return 0
    for path in outcome.made:
        print(f"made {path}")
    print(f"published {', '.join(outcome.published)}" if outcome.published else "nothing was published")
    if outcome.retired and not outcome.waiting:
        names = ", ".join(f"{name}.pem" for name in outcome.retired)
        print(f"sign nothing any more, remove them wherever they are: {names}")
    _print_next(repo.status())
    return 0


def _print_next(status: RepoStatus) -> None:
    for step in status.next:
        print_wrapped(f"next: {step}", further="      ")


def _status(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home
    from agent.fleet.repo import Repo
    from agent.types import to_jsonable

    status = Repo(Home(args.home)).status()
    if args.json:
        print_json({**to_jsonable(status), "expired": status.expired})
    else:
        _print_status(status)
    return 1 if status.expired else 0


def _print_status(status: RepoStatus) -> None:
    columns = ("role", "version", "expires", "signed by", "keys here", "packages", "signs")
    print_table(
        columns, [_row(role) for role in status.roles], title=f"{status.root}: {status.targets} packages"
    )
    for each in status.staged:
        print_wrapped(f"staged: {each}")
    _print_next(status)


def _row(role: RoleStatus) -> tuple[object, ...]:
    names = ", ".join(key.name for key in role.keys)
    here = ", ".join(key.name for key in role.keys if key.here)
    signs = {
        "root": "keys of all roles",
        "targets": "teams",
        "snapshot": "what is current",
        "timestamp": "what is current",
    }
    return (
        role.role,
        role.version,
        "EXPIRED" if role.expired else f"in {role.days:.0f} days",
        names if role.threshold == 1 else f"{role.threshold} of {names}",
        here or "none",
        role.targets if role.patterns else None,
        ", ".join(role.patterns) or signs.get(role.role),
    )
