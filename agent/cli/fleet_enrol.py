"""``overlaid fleet enrol``: which nodes ask for a certificate, and theirs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.fleet_desk import add_command
from agent.cli.output import Commands, add_json, print_json, print_table
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.enrolment import Waiting
    from agent.fleet.home import FleetSettings, Home


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    example = "overlaid fleet enrol cam-7 --fingerprint 5f2a-91c0-77d1-08be-4c19-e2f0-aa31-6d54"
    text = "show which nodes ask for a certificate (overlaid init --enrol), or give one its certificate"
    enrol = add_command(commands, "enrol", _enrol, text, example)
    enrol.add_argument("node", nargs="?", metavar="NODE", help="leave it out to see who asks")
    enrol.add_argument("--fingerprint", metavar="F", help="what the node's own screen shows: compare the two")
    enrol.add_argument(
        "--request", type=Path, metavar="FILE", help="a request that came as a file (pki/node.csr)"
    )
    enrol.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="with --request: where the certificate goes"
    )
    add_json(enrol)


def _enrol(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home
    from agent.setup.request import ungrouped

    home = Home(args.home)
    settings = home.load_settings()
    if args.request is not None:
        return _from_file(args, home, settings)
    if args.node is None:
        return _list(args, home, settings)
    if args.fingerprint is None:
        raise UsageError(
            "give --fingerprint as the node's screen shows it: the name alone could be anybody's; "
            f"who asks: {home.command('enrol')}"
        )
    try:
        digits = ungrouped(args.fingerprint)
    except ValueError as error:
        raise UsageError(f"--fingerprint: {error}") from error
    return _answer(args, home, settings, digits)


def _list(args: argparse.Namespace, home: Home, settings: FleetSettings) -> int:
    from agent.fleet.authority import Authority
    from agent.fleet.enrolment import waiting
    from agent.setup.request import grouped, trust_fingerprint

    root, keys = _trust(home)
    authority = Authority(home, settings.fleet.site)
    trust = grouped(trust_fingerprint(root.encode(), keys))
    found = asyncio.run(waiting(settings.mqtt, settings.fleet.site))
    if args.json:
        print_json(
            {"trust": trust, "authority": str(authority.path), "waiting": [_row(each) for each in found]}
        )
        return 0
    now = time.time()
    names = Counter(each.request.name for each in found if each.request)
    rows = [
        (
            each.request.name if each.request else None, grouped(each.fingerprint),
            f"{max(0.0, now - each.time) / 60:.0f} min ago", each.problem or _asks(each, names),
        )
        for each in found
    ]  # fmt: skip
    print_table(("node", "its key's fingerprint", "since", "state"), rows)
    print(f"the broker's cafile for nodes: {authority.path}")
    print(f"trust fingerprint, for overlaid init --enrol --trust on nodes: {trust}")
    if found:
        print(
            f"next: compare the fingerprint with the node's screen, then {home.command('enrol NODE --fingerprint F')}"
        )
    return 0


def _asks(each: Waiting, names: Counter[str]) -> str:
    """Two nodes of one name would push each other from the broker."""
    if each.request is not None and names[each.request.name] > 1:
        return "asks; so does another by this name: enrol one of them"
    return "asks"


def _row(each: Waiting) -> dict[str, object]:
    name = each.request.name if each.request else None
    return {"node": name, "fingerprint": each.fingerprint, "time": each.time, "problem": each.problem}


def _answer(args: argparse.Namespace, home: Home, settings: FleetSettings, digits: str) -> int:
    from agent.fleet.authority import Authority
    from agent.fleet.enrolment import enrol

    root, keys = _trust(home)
    authority = Authority(home, settings.fleet.site)
    trust = {"root": root, "command_keys": list(keys)}
    asyncio.run(enrol(settings.mqtt, settings.fleet.site, authority, digits, args.node, trust))
    if args.json:
        print_json({"node": args.node, "fingerprint": digits, "authority": str(authority.path)})
    else:
        print(f"{args.node} is enrolled; the broker must trust {authority.path} (mosquitto: cafile)")
    return 0


def _from_file(args: argparse.Namespace, home: Home, settings: FleetSettings) -> int:
    from agent.fleet.authority import Authority
    from agent.fleet.enrolment import objection
    from agent.package import disk
    from agent.setup.request import grouped, read_request

    if args.output is None:
        raise UsageError("--request needs -o, where the certificate goes")
    try:
        request = read_request(args.request.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--request {args.request}: cannot be read; name the node's pki/node.csr") from error
    if request.site != settings.fleet.site or args.node not in (None, request.name):
        raise UsageError(
            f"this is the request of {request.name} of site {request.site}, "
            f"not of {args.node or 'a node'} of {settings.fleet.site}"
        )
    if why := objection(request, settings.fleet.site, settings.mqtt.username):
        raise UsageError(f"refused: {why}")
    authority = Authority(home, settings.fleet.site)
    disk.write(args.output, authority.issue(request).encode())
    print(
        f"{args.output}: certificate of {request.name}, key {grouped(request.fingerprint)}", file=sys.stderr
    )
    if args.json:
        print_json(
            {"node": request.name, "fingerprint": request.fingerprint, "authority": str(authority.path)}
        )
    return 0


def _trust(home: Home) -> tuple[str, tuple[str, ...]]:
    """What nodes shall trust; TrustError says what to make first."""
    from agent.errors import TrustError
    from agent.fleet.keys import COMMANDS, load_key
    from agent.paths import exists

    root = home.path / "repo" / "root.json"
    if not exists(root):
        raise TrustError(f"there is no {root}; make the repository: {home.command('repo init')}")
    return root.read_text(), (str(load_key(home, COMMANDS).public),)
