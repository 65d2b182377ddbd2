"""``overlaid init``: makes this machine a node; asks for what was not given, where a person can answer."""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.output import Commands, add_command, add_json, interrupted, print_json
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.setup.node import Answers, Place

WAIT_S = 600.0


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "make this machine a node: write its configuration, try the broker, ask the operator for a certificate"
    example = "sudo overlaid init --site lab --broker broker.lab --ca ca.pem --username cam-7 --password-file secret"
    init = add_command(commands, "init", _init, text, example)
    init.add_argument(
        "--config", type=Path, metavar="FILE", help="what to write (default: /etc/overlaid/agent.toml)"
    )
    init.add_argument("--site", metavar="NAME", help="the operator's site (overlaid fleet init)")
    init.add_argument("--name", metavar="NAME", help="of this node within the site (default: the host name)")
    init.add_argument("--group", action="append", default=[], metavar="NAME", help="may be repeated")
    init.add_argument("--board", default="local", help="local, or a simulated one: overlaid sim boards")
    broker = init.add_argument_group("the broker")
    broker.add_argument("--broker", metavar="HOST[:PORT]", help="default port: 1883, with --ca 8883")
    broker.add_argument("--ca", type=Path, metavar="FILE", help="the broker's authority; turns TLS on")
    broker.add_argument("--username", metavar="NAME")
    broker.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    broker.add_argument(
        "--cert", type=Path, metavar="FILE", help="a certificate of this node that is there already"
    )
    broker.add_argument("--key", type=Path, metavar="FILE", help="and its key")
    broker.add_argument("--no-test", action="store_true", help="do not connect")
    trust = init.add_argument_group("whom to trust")
    trust.add_argument("--root", type=Path, metavar="FILE", help="root.json of the operator's repository")
    trust.add_argument(
        "--command-key", action="append", default=[], metavar="KEY", help="overlaid fleet keys show commands"
    )
    enrol = init.add_argument_group("a certificate from the operator (overlaid fleet enrol)")
    enrol.add_argument(
        "--enrol",
        nargs="?",
        const="",
        metavar="HOST[:PORT]",
        help="make a key here and ask for its certificate, where the broker takes the login (default: --broker); "
        "the login is used for that only",
    )
    enrol.add_argument(
        "--trust", metavar="FINGERPRINT", help="the trust fingerprint that overlaid fleet enrol shows"
    )
    enrol.add_argument(
        "--wait",
        type=_seconds,
        default=WAIT_S,
        metavar="600",
        help="seconds to wait for the operator; run it again to go on",
    )
    init.add_argument("--force", action="store_true", help="replace a configuration that is there")
    add_json(init)


def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdigit() and int(text) <= 86_400):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 86400")
    return float(text)


def _init(args: argparse.Namespace) -> int:
    from agent.paths import SYSTEM_CONFIG, exists
    from agent.setup import files, node
    from agent.setup.sample import is_sample, sample_text

    place = node.Place((args.config or SYSTEM_CONFIG).absolute())
    if exists(place.config) and not is_sample(place.config) and not args.force:
        raise UsageError(f"{place.config} exists; --force replaces it")
    _ask(args)
    answers = _answers(args)
    owner = files.Owner.find()
    node.configuration(answers)  # refused before anything is written
    if args.enrol is not None:
        enrolled = _enrol(args, place, answers, owner)
        if enrolled is None:
            return 1
        answers = enrolled
    if not args.no_test and answers.mqtt:
        node.try_broker(answers)
    if answers.password is not None:
        files.make_folder(place.password.parent, owner)
        files.write_secret(place.password, f"{answers.password}\n".encode(), owner)
        answers = _with(answers, password=None, mqtt={**answers.mqtt, "password_file": place.password})
    node.write(place, sample_text(), node.configuration(answers), owner)
    _say(args, place, answers)
    return 0


def _ask(args: argparse.Namespace) -> None:
    """Fill in what is missing, where a person sits at the terminal; UsageError names the option elsewhere."""
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not args.json
    if args.site is None:
        args.site = _question(asks, "--site", "site (what the operator called it)")
    if args.name is None:
        host = socket.gethostname().split(".")[0].lower()
        args.name = (_question(asks, "--name", "name of this node", host) if asks else host) or host
    if args.broker is None and asks:
        args.broker = _question(
            asks, "--broker", "broker, HOST[:PORT]; empty: none, this node is used locally", "-"
        )
        args.broker = None if args.broker == "-" else args.broker
    if args.broker is None:
        return
    if args.ca is None and asks:
        ca = _question(asks, "--ca", "file of the broker's authority; empty: no TLS", "-")
        args.ca = None if ca == "-" else Path(ca)
    if args.username is None and args.cert is None and asks:
        name = _question(asks, "--username", "user name at the broker; empty: none", "-")
        args.username = None if name == "-" else name
    args.password = None
    if args.username is not None and args.password_file is None and asks:
        args.password = getpass.getpass("password (is not shown): ") or None


def _question(asks: bool, option: str, text: str, default: str = "") -> str:
    if not asks:
        raise UsageError(f"{option} is missing; give it, or run overlaid init in a terminal, where it asks")
    shown = f" [{default}]" if default not in ("", "-") else ""
    while True:
        found = input(f"{text}{shown}: ").strip() or default
        if found:
            return found


def _answers(args: argparse.Namespace) -> Answers:
    from agent.fleet.home import parse_broker
    from agent.setup.node import Answers

    mqtt: dict[str, object] = {}
    if args.broker is not None:
        host, port = parse_broker(args.broker, tls=args.ca is not None)
        mqtt = {
            "host": host, "port": port, "username": args.username,
            "password_file": _readable("--password-file", args.password_file), "ca": _readable("--ca", args.ca),
            "cert": _readable("--cert", args.cert), "key": _readable("--key", args.key),
        }  # fmt: skip
        mqtt = {key: value for key, value in mqtt.items() if value is not None}
    elif args.enrol is not None:
        raise UsageError("--enrol needs --broker, over which the certificate comes")
    return Answers(
        site=args.site,
        name=args.name,
        board=args.board,
        groups=tuple(args.group),
        mqtt=mqtt,
        password=getattr(args, "password", None),
        root=_readable("--root", args.root),
        command_keys=tuple(args.command_key),
    )


def _readable(option: str, path: Path | None) -> Path | None:
    """Its absolute path; UsageError when it cannot be read."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name a file that this user can read") from error
    return path.absolute()


def _enrol(args: argparse.Namespace, place: Place, answers: Answers, owner: object) -> Answers | None:
    from agent.setup import node
    from agent.setup.files import Owner
    from agent.setup.request import grouped, ungrouped

    assert isinstance(owner, Owner)
    try:
        trust = None if args.trust is None else ungrouped(args.trust)
    except ValueError as error:
        raise UsageError(f"--trust: {error}") from error
    if trust is None and not (answers.root and answers.command_keys):
        raise UsageError(
            "--enrol needs --trust, the fingerprint that overlaid fleet enrol shows, or --root and --command-key: "
            "else anybody at the broker could tell this node whom to obey"
        )
    digits = node.prepare_key(place, answers, owner)
    print(
        f"this node's key is {grouped(digits)}; the operator enrols it:\n"
        f"  overlaid fleet enrol {answers.name} --fingerprint {grouped(digits)}",
        file=sys.stderr,
    )
    with interrupted("the request stays at the broker; run the same command again to go on waiting"):
        found = node.enrol(place, _at(answers, args), trust, args.wait, owner)
    if found is None:
        print(
            f"overlaid: no answer within {args.wait:g} s; the request stays at the broker: run the same command again",
            file=sys.stderr,
        )
        return None
    root, command_keys = found
    mqtt = {key: value for key, value in answers.mqtt.items() if key not in ("username", "password_file")}
    mqtt |= {"cert": place.certificate, "key": place.key}
    return _with(answers, mqtt=mqtt, root=root, command_keys=command_keys, password=None)


def _at(answers: Answers, args: argparse.Namespace) -> Answers:
    """With the listener of the broker that takes the enrolment's login."""
    from agent.fleet.home import parse_broker

    if not args.enrol:
        return answers
    host, port = parse_broker(args.enrol, tls=args.ca is not None)
    return _with(answers, mqtt={**answers.mqtt, "host": host, "port": port})


def _with(answers: Answers, **changes: object) -> Answers:
    from dataclasses import replace

    return replace(answers, **changes)  # type: ignore[arg-type]


def _say(args: argparse.Namespace, place: Place, answers: Answers) -> None:
    trusts = bool(answers.root and answers.command_keys)
    if args.json:
        print_json(
            {
                "config": str(place.config),
                "site": answers.site,
                "name": answers.name,
                "enrolled": args.enrol is not None,
                "trusts": trusts,
            }
        )
        return
    print(f"wrote {place.config}: node {answers.name} of site {answers.site}")
    if answers.mqtt and not trusts:
        print("it obeys nobody yet: give --root and --command-key, or write them into its [trust]")
    print("next: sudo systemctl restart overlaid; overlaid doctor")
