"""``overlaid init --enrol`` and ``--renew``: a certificate from the operator."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.output import interrupted, print_json
from agent.errors import TrustError, UsageError

if TYPE_CHECKING:
    from agent.setup.files import Owner
    from agent.setup.node import Answers, Place


def enrol(args: argparse.Namespace, place: Place, answers: Answers, owner: Owner) -> Answers | None:
    """Its certificate, and with it whom to trust; None when nobody answered in time."""
    found = _ask(args, place, answers, owner)
    if found is None:
        return None
    root, command_keys = found
    mqtt = {key: value for key, value in answers.mqtt.items() if key not in ("username", "password_file")}
    mqtt |= {"cert": place.certificate, "key": place.key}
    return replace(answers, mqtt=mqtt, root=root, command_keys=command_keys, password=None)


def renew(args: argparse.Namespace, place: Place) -> int:
    """``--renew``: another certificate for the same key, and the configuration as it was."""
    from agent.config import load_config
    from agent.setup import files, node
    from agent.setup.request import expires

    config = load_config(place.config, {})
    given = [
        option for option in ("site", "name", "broker", "cert", "key") if getattr(args, option) is not None
    ]
    if given or config.mqtt is None or config.mqtt.ca is None:
        what = (
            f"--{given[0]} is configured already"
            if given
            else f"{place.config} has no broker with TLS ([mqtt] ca)"
        )
        raise UsageError(
            f"{what}: --renew gets a certificate for a node as it is; run overlaid init without it"
        )
    mqtt = config.mqtt.model_dump(exclude_none=True, exclude_defaults=True, exclude={"password"})
    if args.username is not None:
        mqtt = {key: value for key, value in mqtt.items() if key not in ("cert", "key", "password_file")}
        mqtt |= {"username": args.username, "password_file": readable("--password-file", args.password_file)}
    password = config.mqtt.password.get_secret_value() if config.mqtt.password and not args.username else None
    answers = node.Answers(
        config.node.site, config.node.name, mqtt=mqtt, password=password,
        root=config.trust.root, command_keys=config.trust.command_keys,
    )  # fmt: skip
    owner = files.Owner.find()
    args.ca = config.mqtt.ca
    after = 0.0
    with contextlib.suppress(OSError, TrustError):  # what is not there, or damaged, is no measure
        after = expires(config.mqtt.cert.read_bytes()) if config.mqtt.cert else 0.0
    found = _ask(args, place, answers, owner, after)
    if found is None:
        return 1
    node.point(place, config, *found, owner)
    until = time.strftime("%Y-%m-%d", time.gmtime(expires(place.certificate.read_bytes())))
    if args.json:
        print_json({"config": str(place.config), "certificate": str(place.certificate), "until": until})
    else:
        print(
            f"{place.certificate} counts until {until}\nnext: sudo systemctl restart overlaid; overlaid doctor"
        )
    return 0


def _ask(
    args: argparse.Namespace, place: Place, answers: Answers, owner: Owner, after: float = 0.0
) -> tuple[Path, tuple[str, ...]] | None:
    from agent.setup import node
    from agent.setup.request import grouped, ungrouped

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
        found = node.enrol(place, _at(answers, args), trust, args.wait, owner, _tell, after)
    if found is None:
        print(
            f"overlaid: no answer within {args.wait:g} s; the request stays at the broker: run the same command again",
            file=sys.stderr,
        )
    return found


def _tell(text: str) -> None:
    print(f"overlaid: {text}", file=sys.stderr, flush=True)


def _at(answers: Answers, args: argparse.Namespace) -> Answers:
    """With the listener of the broker that takes the enrolment's login."""
    from agent.fleet.home import parse_broker

    if not args.enrol:
        return answers
    host, port = parse_broker(args.enrol, tls=args.ca is not None)
    return replace(answers, mqtt={**answers.mqtt, "host": host, "port": port})


def readable(option: str, path: Path | None) -> Path | None:
    """Its absolute path; UsageError when it cannot be read."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name a file that this user can read") from error
    return path.absolute()
