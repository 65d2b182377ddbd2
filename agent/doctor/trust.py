"""Whom the node obeys: without that it refuses everything that comes over the broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from agent.config import Config
from agent.doctor.clock import date
from agent.doctor.finding import Finding, ok, problem, unknown, warning
from agent.doctor.subject import Subject
from agent.errors import one_line

AREA = "trust"
MAX_ROOT_BYTES = 1 << 20
SHOW_KEY = "on the operator's machine: overlaid fleet keys show commands"
COPY_ROOT = "copy repo/root.json of the operator's folder there: sudo install -m 644 root.json"


@dataclass(frozen=True, slots=True)
class Root:
    """The TUF root that ``trust.root`` names. ``expires``: Unix seconds."""

    path: Path
    fault: Literal["", "missing", "denied", "damaged"] = ""
    error: str = ""
    expires: float | None = None


def look(config: Config) -> Root | None:
    """None where the configuration names none."""
    path = config.trust.root
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ROOT_BYTES + 1)
    except PermissionError as error:
        return Root(path, "denied", error.strerror or "")
    except OSError as error:
        return Root(path, "missing", error.strerror or one_line(error))
    return parse(path, data)


def parse(path: Path, data: bytes) -> Root:
    """Its date (TUF specification, "root.json"). No signature is checked: the daemon does that. Pure."""
    try:
        if len(data) > MAX_ROOT_BYTES:
            raise ValueError(f"more than {MAX_ROOT_BYTES} bytes")
        signed: Any = json.loads(data)["signed"]
        if signed["_type"] != "root":
            raise ValueError(f"it is TUF metadata of the type {signed['_type']!r:.40}, not root")
        expires = datetime.strptime(signed["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        return Root(path, expires=expires.timestamp())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Root(path, "damaged", f"not a TUF root ({one_line(error)[:120]})")


def judge(root: Root | None, config: Config, subject: Subject, now: float) -> list[Finding]:
    found = [*_of_commands(config, subject), *_of_packages(root, subject, now)]
    return found or [ok(AREA, "the node knows whom to obey and whose packages to install")]


def _of_commands(config: Config, subject: Subject) -> Iterator[Finding]:
    if config.mqtt is not None and not config.trust.command_keys:
        yield warning(
            AREA, "the node obeys nobody: trust.command_keys is empty",
            "desired states and commands from the broker are refused",
            f"{SHOW_KEY}; here: " + subject.edit("trust", "command_keys", 'command_keys = ["ed25519:…"]'),
        )  # fmt: skip


def _of_packages(root: Root | None, subject: Subject, now: float) -> Iterator[Finding]:
    if root is None:
        yield warning(
            AREA, "the node was not told who may sign packages: trust.root is not set",
            "every deployment fails",
            f"{COPY_ROOT} /etc/overlaid/; here: "
            + subject.edit("trust", "root", 'root = "/etc/overlaid/root.json"'),
        )  # fmt: skip
    elif root.fault == "denied":
        yield unknown(AREA, f"trust.root {root.path} cannot be read", root.error, subject.again)
    elif root.fault:
        yield problem(
            AREA, f"trust.root {root.path}: {root.error}", "the node installs no packages without it",
            f"{COPY_ROOT} {root.path} && {subject.restart}",
        )  # fmt: skip
    elif root.expires is not None and root.expires < now:
        yield warning(
            AREA, f"trust.root {root.path} expired on {date(root.expires)}",
            "packages are installed only while the operator's repository has a newer one; or this clock is ahead",
            f"{COPY_ROOT} {root.path} && {subject.restart}",
        )  # fmt: skip
