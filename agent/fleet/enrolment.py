"""Nodes that ask for a certificate, and the operator's answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.config import Mqtt
from agent.errors import MessageError, OverlaidError, UsageError
from agent.fleet.authority import Authority
from agent.fleet.connection import QUIET_S, RETAINED_S, connect, publish
from agent.link import enrolment
from agent.link.client import Message, MqttLink
from agent.link.enrolment import EnrolAnswer, EnrolRequest
from agent.link.messages import parse
from agent.setup.request import Request, read_request
from agent.waiting import set_within

MAX_WAITING = 1000
KEPT_S = 30 * 86_400.0  # an answer that nobody fetched for so long goes
MAX_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Waiting:
    """A node that waits. ``time``: Unix seconds by its own clock; ``problem``: why it cannot be enrolled."""

    fingerprint: str
    request: Request | None
    time: float
    problem: str = ""


def objection(request: Request, site: str, operator: str | None) -> str:
    """Why a node may not have what it asks for, "" when it may. ``operator``: the operator's own login, whose rights
    a certificate of that name would give (systemd/mosquitto)."""
    if request.site != site:
        return f"it wants to belong to site {request.site}"
    if request.name in (operator, "operator"):
        return f"it calls itself {request.name}, as the operator does at the broker"
    return ""


class _Heard:
    def __init__(self, site: str, operator: str | None) -> None:
        self._site, self._operator = site, operator
        self.requests: dict[str, Waiting] = {}
        self.answers: dict[str, float] = {}
        self.changed = asyncio.Event()

    def handle(self, message: Message) -> None:
        message.ack()
        self.changed.set()
        try:
            fingerprint = enrolment.fingerprint_of(message.topic)
        except ValueError:
            return
        if not message.payload or len(message.payload) > MAX_BYTES or len(self.requests) >= MAX_WAITING:
            return
        try:
            if message.topic.endswith("/answer"):
                self.answers[fingerprint] = parse(EnrolAnswer, message.payload).time
            else:
                self.requests[fingerprint] = self._waiting(fingerprint, message.payload)
        except MessageError:
            return

    def _waiting(self, fingerprint: str, payload: bytes) -> Waiting:
        asked = parse(EnrolRequest, payload)
        try:
            request = read_request(asked.request)
        except OverlaidError as error:
            return Waiting(fingerprint, None, asked.time, str(error))
        problem = objection(request, self._site, self._operator)
        if request.fingerprint != fingerprint:
            problem = f"its key has the fingerprint {request.fingerprint}: not what its topic says"
        return Waiting(fingerprint, request, asked.time, problem)


async def waiting(mqtt: Mqtt, site: str) -> list[Waiting]:
    """Who asks, oldest first; answers that nobody fetched for a month are cleared. LinkError."""
    heard = _Heard(site, mqtt.username)
    async with connect(mqtt, heard.handle) as link:
        await _read(heard, link, enrolment.filters(site))
        for fingerprint, answered in heard.answers.items():
            if time.time() - answered > KEPT_S:
                await publish(link, enrolment.answer_topic(site, fingerprint), b"", retain=True)
    return sorted(heard.requests.values(), key=lambda each: each.time)


async def enrol(
    mqtt: Mqtt, site: str, authority: Authority, fingerprint: str, name: str, trust: Mapping[str, object]
) -> None:
    """Certify the node that asks with this key: the answer waits for it at the broker.

    ``trust``: root and command_keys of an EnrolAnswer. UsageError when no such node asks; LinkError.
    """
    heard = _Heard(site, mqtt.username)
    async with connect(mqtt, heard.handle) as link:
        await _read(
            heard, link, [enrolment.request_topic(site, fingerprint)]
        )  # whoever else floods the topics
        found = heard.requests.get(fingerprint)
        if found is None or found.request is None or found.problem or found.request.name != name:
            raise UsageError(_nobody(found, fingerprint, name))
        answer = EnrolAnswer.model_validate(
            {**trust, "certificate": authority.issue(found.request), "time": time.time()}
        )
        await publish(link, enrolment.answer_topic(site, fingerprint), answer.encode(), retain=True)
        await publish(link, enrolment.request_topic(site, fingerprint), b"", retain=True)


def _nobody(found: Waiting | None, fingerprint: str, name: str) -> str:
    if found is None:
        return f"no node asks with the key {fingerprint}; see who does: overlaid fleet enrol"
    if found.problem or found.request is None:
        return f"the request of {fingerprint} is refused: {found.problem}"
    return (
        f"the node with this key calls itself {found.request.name}, not {name}: look at its screen once more"
    )


async def _read(heard: _Heard, link: MqttLink, filters: Iterable[str]) -> None:
    for topic in filters:
        link.subscribe(topic, 0)
    deadline = time.monotonic() + 2 * RETAINED_S
    patience = RETAINED_S
    while time.monotonic() < deadline:
        heard.changed.clear()
        if not await set_within(heard.changed, patience):
            return
        patience = QUIET_S
