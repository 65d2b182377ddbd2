"""``overlaid init``: makes this machine a node; asks for what was not given, where a person can answer."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.init_enrol import enrol, readable, renew
from agent.cli.init_questions import fill_in
from agent.cli.output import Commands, add_command, add_json, print_json
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
    init.add_argument(
        "--board", metavar="BOARD", help="local (default), or a simulated one: overlaid sim boards"
    )
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
    certificate = init.add_argument_group("a certificate from the operator (overlaid fleet enrol)")
    certificate.add_argument(
        "--enrol",
        nargs="?",
        const="",
        metavar="HOST[:PORT]",
        help="make a key here and ask for its certificate, where the broker takes the login (default: --broker); "
        "the login is used for that only",
    )
    certificate.add_argument(
        "--trust", metavar="FINGERPRINT", help="the trust fingerprint that overlaid fleet enrol shows"
    )
    certificate.add_argument(
        "--wait",
        type=_seconds,
        default=WAIT_S,
        metavar="600",
        help="seconds to wait for the operator; run it again to go on",
    )
    certificate.add_argument(
        "--renew",
        action="store_true",
        help="a new certificate for the node that is configured here, whose configuration stays; over its own "
        "connection, or, when that does not work any more, with --enrol, --username and --password-file",
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
    if args.renew:
        return renew(args, place)
    if exists(place.config) and not is_sample(place.config) and not args.force:
        raise UsageError(f"{place.config} exists; --force replaces it")
    fill_in(args)
    answers = _answers(args)
    owner = files.Owner.find()
    node.configuration(answers)  # refused before anything is written
    if args.enrol is not None:
        enrolled = enrol(args, place, answers, owner)
        if enrolled is None:
            return 1
        answers = enrolled
    if not args.no_test and answers.mqtt:
        node.try_broker(answers)
    answers, copied = node.bring(place, answers, owner)
    if answers.password is not None:
        files.write_secret(place.password, f"{answers.password}\n".encode(), owner)
        answers = replace(answers, password=None, mqtt={**answers.mqtt, "password_file": place.password})
    node.write(place, sample_text(), node.configuration(answers), owner)
    _say(args, place, answers, copied)
    return 0


def _answers(args: argparse.Namespace) -> Answers:
    from agent.fleet.home import parse_broker
    from agent.setup.node import Answers

    mqtt: dict[str, object] = {}
    if args.broker is not None:
        host, port = parse_broker(args.broker, tls=args.ca is not None)
        mqtt = {
            "host": host, "port": port, "username": args.username,
            "password_file": readable("--password-file", args.password_file), "ca": readable("--ca", args.ca),
            "cert": readable("--cert", args.cert), "key": readable("--key", args.key),
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
        root=readable("--root", args.root),
        command_keys=tuple(args.command_key),
    )


def _say(args: argparse.Namespace, place: Place, answers: Answers, copied: list[Path]) -> None:
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
    if copied:
        print(f"copied, for the service to read: {', '.join(map(str, copied))}")
    print(f"wrote {place.config}: node {answers.name} of site {answers.site}")
    if answers.mqtt and not trusts:
        print("it obeys nobody yet: give --root and --command-key, or write them into its [trust]")
    print("next: sudo systemctl restart overlaid; overlaid doctor")
