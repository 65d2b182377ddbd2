"""How a node gets its certificate over the broker, before it has one (docs/wire.md): what travels, and where."""

from __future__ import annotations

import re

from pydantic import Field

from agent.link.messages import Message
from agent.mqtt import ROOT
from agent.types import check_name

_ID = re.compile(r"[0-9a-f]{32}")


class EnrolRequest(Message):
    """A certificate request (PEM) of a node that has no certificate yet; retained. It proves its key, and no more."""

    request: str = Field(max_length=16 * 1024)
    time: float


class EnrolAnswer(Message):
    """The certificate (PEM), and whom the node shall trust: text of root.json, keys of commands. Retained."""

    certificate: str = Field(max_length=16 * 1024)
    root: str = Field(max_length=64 * 1024)
    command_keys: list[str] = Field(max_length=64)
    time: float


def request_topic(site: str, fingerprint: str) -> str:
    """Where a node leaves its request, named by its key's fingerprint."""
    return _topic(site, fingerprint, "request")


def answer_topic(site: str, fingerprint: str) -> str:
    """Where the operator leaves the answer."""
    return _topic(site, fingerprint, "answer")


def filters(site: str) -> tuple[str, str]:
    """All requests, all answers of a site."""
    base = f"{ROOT}/{check_name(site, 'site')}/enrol/+"
    return f"{base}/request", f"{base}/answer"


def fingerprint_of(topic: str) -> str:
    """ValueError when the topic names none."""
    found = topic.split("/")[-2]
    if not _ID.fullmatch(found):
        raise ValueError(f"{found[:80]!r} is not a fingerprint")
    return found


def _topic(site: str, fingerprint: str, kind: str) -> str:
    if not _ID.fullmatch(fingerprint):
        raise ValueError(f"{fingerprint[:80]!r} is not a fingerprint")
    return f"{ROOT}/{check_name(site, 'site')}/enrol/{fingerprint}/{kind}"
