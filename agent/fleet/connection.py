"""A command's own connection to the broker, and what it hears on it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable

from agent.config import Mqtt
from agent.errors import LinkError, MessageError
from agent.fleet.views import Event, Heard, NodeView, changes, node_filters
from agent.link.client import Message, MqttLink, MqttSettings
from agent.link.messages import Result
from agent.waiting import set_within

CONNECT_TIMEOUT_S = 10.0
PUBLISH_TIMEOUT_S = 15.0
RETAINED_S = 1.0
QUIET_S = 0.3
RETAINED_KINDS = ("status", "reported", "capabilities")


def link_settings(mqtt: Mqtt, client_id: str, *, persistent: bool = False) -> MqttSettings:
    """The operator's [mqtt] settings for one connection. Raises ConfigError when the password file is unreadable."""
    return MqttSettings(
        mqtt.host,
        mqtt.port,
        client_id,
        mqtt.username,
        mqtt.read_password(),
        mqtt.ca,
        mqtt.cert,
        mqtt.key,
        mqtt.keepalive_s,
        clean_session=not persistent,
    )


@contextlib.asynccontextmanager
async def connect(
    mqtt: Mqtt, on_message: Callable[[Message], None], on_lost: Callable[[str], None] | None = None
) -> AsyncIterator[MqttLink]:
    """A clean-start connection for one command; ``on_lost`` gets the reason when it breaks later.

    Raises LinkError, naming host, port and what to check, when the first attempt fails: a person is waiting.
    """
    first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def on_disconnect(why: str) -> None:
        if not first.done():
            first.set_result(why)
        elif on_lost is not None:
            on_lost(why)

    def on_connect() -> None:
        if not first.done():
            first.set_result(None)

    link = MqttLink(
        link_settings(mqtt, f"overlaid-{secrets.token_hex(6)}"),
        on_message=on_message,
        on_connect=on_connect,
        on_disconnect=on_disconnect,
    )
    link.start()
    try:
        await asyncio.wait({first}, timeout=CONNECT_TIMEOUT_S)
        if not first.done():
            raise LinkError(
                f"the broker {mqtt.host}:{mqtt.port} did not answer within {CONNECT_TIMEOUT_S:g} s; "
                "check that it runs, the network and firewalls, and [mqtt] of fleet.toml"
            )
        if first.result() is not None:
            raise LinkError(f"no connection to the broker {mqtt.host}:{mqtt.port}: {first.result()}")
        yield link
    finally:
        await link.stop()


async def publish(link: MqttLink, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Publish at QoS 1 and wait for the broker's acknowledgement; LinkError when it does not come."""
    try:
        await asyncio.wait_for(link.publish(topic, payload, 1, retain), PUBLISH_TIMEOUT_S)
    except asyncio.TimeoutError as error:
        raise LinkError(
            f"{link.settings.host}:{link.settings.port} did not acknowledge {topic} within {PUBLISH_TIMEOUT_S:g} s"
        ) from error


class Listener:
    """Follows what nodes say: ``views`` by node, ``results`` by (node, command id), ``on_event`` for each change."""

    def __init__(
        self,
        site: str,
        on_event: Callable[[Event], None] | None = None,
        views: dict[str, NodeView] | None = None,
    ) -> None:
        self._site, self._on_event = site, on_event
        self.views = views if views is not None else {}
        self.results: dict[tuple[str, str], Heard] = {}
        self._changed = asyncio.Event()

    def handle(self, message: Message) -> None:
        """For ``connect``; what does not parse is not a node's doing that a command could mend, and is left out."""
        message.ack()
        try:
            heard = Heard.parse(self._site, message.topic, message.payload, time.time(), message.retain)
        except MessageError:
            return
        view = self.views.get(heard.node, NodeView(heard.node))
        self.views[heard.node] = view.after(heard)
        if isinstance(heard.message, Result):
            self.results[heard.node, heard.message.id] = heard
        for event in changes(view, heard) if self._on_event else ():
            self._on_event(event)  # type: ignore[misc]
        self._changed.set()

    async def changed(self, timeout_s: float) -> bool:
        """Wait for the next message; False when none came in time."""
        self._changed.clear()
        return await set_within(self._changed, timeout_s)

    async def read_retained(self, link: MqttLink, kinds: Iterable[str] = RETAINED_KINDS) -> None:
        """Subscribe and wait for the retained messages: until they stop coming, one second when there are none.

        At QoS 0: it has no queue at the broker that could overflow with many nodes.
        """
        for topic in node_filters(self._site, *kinds):
            link.subscribe(topic, 0)
        if await self.changed(RETAINED_S):
            deadline = time.monotonic() + RETAINED_S
            while time.monotonic() < deadline and await self.changed(QUIET_S):
                pass
