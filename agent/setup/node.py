"""From answers to a node: checks them, asks for a certificate where one is wanted, writes the configuration last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.config import Config, Mqtt
from agent.errors import ConfigError, TrustError, UsageError
from agent.link.enrolment import EnrolAnswer
from agent.package.disk import store_error
from agent.paths import parse_toml
from agent.setup import broker, files
from agent.setup.request import check_certificate, expires, fingerprint, load_key, make_request, new_key
from agent.setup.sample import Value, assigned, filled
from agent.validation import explain_validation, from_table


@dataclass(frozen=True, slots=True)
class Answers:
    """What the person said; None: the sample's default. ``password`` is written to a file of its own."""

    site: str
    name: str
    board: str = "local"
    groups: tuple[str, ...] = ()
    mqtt: Mapping[str, Any] = field(default_factory=dict)
    password: str | None = None
    root: Path | None = None
    command_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files go: beside the configuration."""

    config: Path

    @property
    def password(self) -> Path:
        return self.config.parent / "mqtt.password"

    @property
    def pki(self) -> Path:
        return self.config.parent / "pki"

    @property
    def key(self) -> Path:
        return self.pki / "node.key"

    @property
    def request(self) -> Path:
        return self.pki / "node.csr"

    @property
    def certificate(self) -> Path:
        return self.pki / "node.pem"

    @property
    def authority(self) -> Path:
        return self.pki / "ca.pem"

    @property
    def root(self) -> Path:
        return self.config.parent / "root.json"


def configuration(answers: Answers) -> dict[str, dict[str, Value]]:
    """Tables of agent.toml; UsageError names the key that is wrong."""
    tables: dict[str, dict[str, Value]] = {
        "node": {
            "site": answers.site,
            "name": answers.name,
            "board": answers.board,
            "groups": list(answers.groups),
        },
        "mqtt": {key: value for key, value in answers.mqtt.items() if value is not None},
        "trust": {},
    }
    if answers.root is not None:
        tables["trust"]["root"] = answers.root
    if answers.command_keys:
        tables["trust"]["command_keys"] = list(answers.command_keys)
    check(tables)
    return tables


def check(tables: Mapping[str, Mapping[str, Value]]) -> Config:
    """The configuration as the daemon will read it; UsageError."""
    plain = {
        name: {key: str(value) if isinstance(value, Path) else value for key, value in table.items()}
        for name, table in tables.items()
        if table
    }
    try:
        return from_table(Config, plain)
    except ValidationError as error:
        raise UsageError(f"this would not be a valid agent.toml: {explain_validation(error)}") from error


def try_broker(answers: Answers) -> None:
    """Log in once with what was answered; LinkError says what is wrong."""
    asyncio.run(broker.try_broker(_mqtt(answers)))


def prepare_key(place: Place, answers: Answers, owner: files.Owner) -> str:
    """The node's key and its certificate request, made unless they are there; the key's fingerprint."""
    files.make_folder(place.config.parent, owner)
    files.make_folder(place.pki, owner)
    try:
        pem = place.key.read_bytes() if place.key.exists() else b""
    except OSError as error:
        raise store_error(place.key, error) from error
    if not pem:
        pem = new_key()
        files.write_secret(place.key, pem, owner)
    files.write_public(place.request, make_request(pem, answers.site, answers.name).encode(), owner)
    return fingerprint(load_key(pem).public_key())


def enrol(
    place: Place, answers: Answers, trust: str | None, wait_s: float, owner: files.Owner,
    tell: Callable[[str], None], after: float = 0.0,
) -> tuple[Path, tuple[str, ...]] | None:  # fmt: skip
    """Ask the operator for a certificate and keep it; root.json and the keys of commands, None when no answer came.

    ``trust``: the fingerprint that the operator's screen shows; not needed where root and command_keys were answered.
    ``after``: the certificate must count for longer than until then (Unix seconds). ``tell``: what a person should
    know. Raises LinkError, TrustError, StoreError.
    """
    key_pem, request = place.key.read_bytes(), place.request.read_text()
    digits = fingerprint(load_key(key_pem).public_key())
    root, command_keys = answers.root, answers.command_keys

    def check(answer: EnrolAnswer) -> None:
        check_certificate(answer.certificate, key_pem, answers.name)
        if (end := expires(answer.certificate.encode())) <= max(after, time.time()):
            day = time.strftime("%Y-%m-%d", time.gmtime(end))
            raise TrustError(
                f"the certificate counts until {day}, which is too short (or the clock is wrong)"
            )
        if root is None or not command_keys:
            broker.check_trust(answer, trust)

    answer = asyncio.run(broker.ask(_mqtt(answers), answers.site, digits, request, wait_s, check, tell))
    if answer is None:
        return None
    if root is None or not command_keys:
        files.write_public(place.root, answer.root.encode(), owner)
        root, command_keys = place.root, tuple(answer.command_keys)
    files.write_public(place.certificate, answer.certificate.encode(), owner)
    return root, command_keys


def bring(place: Place, answers: Answers, owner: files.Owner) -> tuple[Answers, list[Path]]:
    """With copies beside the configuration of files that lie elsewhere: the service sees nothing of /home, and may not
    read what is this person's alone. Also which copies were made. StoreError.
    """
    mqtt, made = dict(answers.mqtt), []
    files.make_folder(place.config.parent, owner)
    files.make_folder(place.pki, owner)

    def copy(source: Path, target: Path, put: Callable[[Path, bytes, files.Owner], None]) -> Path:
        if source.resolve().is_relative_to(place.config.parent.resolve()):
            return source
        try:
            put(target, source.read_bytes(), owner)
        except OSError as error:
            raise store_error(source, error) from error
        made.append(target)
        return target

    for key, target, put in (
        ("ca", place.authority, files.write_public), ("cert", place.certificate, files.write_public),
        ("key", place.key, files.write_secret), ("password_file", place.password, files.write_secret),
    ):  # fmt: skip
        if mqtt.get(key) is not None:
            mqtt[key] = copy(Path(mqtt[key]), target, put)
    root = None if answers.root is None else copy(answers.root, place.root, files.write_public)
    return replace(answers, mqtt=mqtt, root=root), made


def write(place: Place, sample: str, tables: Mapping[str, Mapping[str, Value]], owner: files.Owner) -> None:
    """agent.toml, whole or not at all; StoreError."""
    files.make_folder(place.config.parent, owner)
    files.write_config(place.config, filled(sample, tables), owner)


def point(
    place: Place, config: Config, root: Path, command_keys: tuple[str, ...], owner: files.Owner
) -> None:
    """Let the configuration name the certificate and whom to trust, where it does not; else it stays. StoreError,
    and ConfigError with what to write by hand where the file is not written as the sample is."""
    wanted: dict[str, dict[str, Value]] = {"mqtt": {}, "trust": {}}
    if config.mqtt is None or (config.mqtt.cert, config.mqtt.key) != (place.certificate, place.key):
        wanted["mqtt"] = {"cert": place.certificate, "key": place.key}
    if config.trust.root != root:
        wanted["trust"]["root"] = root
    if config.trust.command_keys != command_keys:
        wanted["trust"]["command_keys"] = list(command_keys)
    if not any(wanted.values()):
        return
    text = filled(place.config.read_text(encoding="utf-8"), wanted)
    try:
        from_table(Config, parse_toml(text, place.config))
    except (ConfigError, ValidationError) as error:
        lines = "; ".join(f"[{name}] {line}" for name, table in wanted.items() for line in assigned(table))
        raise ConfigError(f"the certificate is there; write into {place.config}: {lines}") from error
    files.write_config(place.config, text, owner)


def _mqtt(answers: Answers) -> Mqtt:
    table = {key: str(value) if isinstance(value, Path) else value for key, value in answers.mqtt.items()}
    if answers.password is not None:
        table = {**table, "password": answers.password}
        table.pop("password_file", None)
    try:
        return from_table(Mqtt, {key: value for key, value in table.items() if value is not None})
    except ValidationError as error:
        raise UsageError(f"[mqtt]: {explain_validation(error)}") from error
