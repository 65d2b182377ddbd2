"""The broker, tried once, and the way to a certificate over it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from agent.config import Mqtt
from agent.errors import LinkError, MessageError, TrustError
from agent.link import enrolment
from agent.link.client import Message, MqttLink, MqttSettings
from agent.link.enrolment import EnrolAnswer, EnrolRequest
from agent.link.messages import parse
from agent.setup.request import trust_fingerprint

CONNECT_S = 15.0
PUBLISH_S = 15.0


@contextlib.asynccontextmanager
async def connected(mqtt: Mqtt, on_message: Callable[[Message], None]) -> AsyncIterator[MqttLink]:
    """A clean-start connection; LinkError with the reason when the first attempt fails."""
    settings = MqttSettings(
        mqtt.host, mqtt.port, f"overlaid-init-{secrets.token_hex(6)}", mqtt.username, mqtt.read_password(),
        mqtt.ca, mqtt.cert, mqtt.key, mqtt.keepalive_s,
    )  # fmt: skip
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    link = MqttLink(
        settings,
        on_message=on_message,
        on_disconnect=lambda why: None if failed.done() else failed.set_result(why),
    )
    link.start()
    connecting = asyncio.ensure_future(link.connected(CONNECT_S))
    either: set[asyncio.Future[Any]] = {connecting, failed}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not link.is_connected:
            why = failed.result() if failed.done() else f"{settings.where} did not answer in {CONNECT_S:g} s"
            raise LinkError(f"no connection to the broker: {why}")
        yield link
    finally:
        connecting.cancel()
        await link.stop()


async def try_broker(mqtt: Mqtt) -> None:
    """Connect and log in, once. LinkError says what is wrong."""
    async with connected(mqtt, lambda message: message.ack()):
        pass


async def ask(
    mqtt: Mqtt,
    site: str,
    fingerprint: str,
    request: str,
    wait_s: float,
    check: Callable[[EnrolAnswer], None],
    tell: Callable[[str], None],
) -> EnrolAnswer | None:
    """Leave the certificate request at the broker and wait for the operator's answer; None when none came in time.
    Asking again with the same key goes on waiting. LinkError, and what ``check`` raises of an answer.

    An answer stays at the broker: one of another time that ``check`` refuses is told, and a new one is asked for.
    """
    answer: asyncio.Future[EnrolAnswer] = asyncio.get_running_loop().create_future()

    def handle(message: Message) -> None:
        message.ack()
        if answer.done() or not message.payload:
            return
        with contextlib.suppress(MessageError):
            found = parse(EnrolAnswer, message.payload)
            try:
                check(found)
            except TrustError as error:
                if message.retain:
                    tell(f"an earlier answer waits and does not count: {error}; a new one is asked for")
                else:
                    answer.set_exception(error)
            else:
                answer.set_result(found)

    async with connected(mqtt, handle) as link:
        link.subscribe(enrolment.answer_topic(site, fingerprint), 1)
        topic, payload = (
            enrolment.request_topic(site, fingerprint),
            EnrolRequest(request=request, time=time.time()).encode(),
        )
        # An answer that waits already comes first: then there is nothing to ask for.
        await asyncio.wait({answer}, timeout=1.0)
        if not answer.done():
            try:
                await asyncio.wait_for(link.publish(topic, payload, 1, retain=True), PUBLISH_S)
            except asyncio.TimeoutError as error:
                raise LinkError(
                    "the broker did not take the request in time; run the same command again"
                ) from error
            await asyncio.wait({answer}, timeout=wait_s)
        return answer.result() if answer.done() else None


def check_trust(answer: EnrolAnswer, expected: str | None) -> None:
    """Whom the answer tells the node to trust must be whom the operator's screen showed; TrustError otherwise."""
    found = trust_fingerprint(answer.root.encode(errors="replace"), answer.command_keys)
    if expected is None or found != expected:
        raise TrustError(
            f"the answer came with another trust fingerprint ({found}) than the operator showed ({expected}): refused; "
            "compare again what overlaid fleet enrol prints"
        )
