"""One connection to the broker for asyncio: made, kept and made again; its callbacks run on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from agent.errors import LinkError
from agent.link.backoff import Backoff
from agent.link.network import Network
from agent.link.values import (
    FAREWELL_TIMEOUT_S,
    MAX_OUTGOING,
    MAX_PAYLOAD_BYTES,
    Message,
    MqttSettings,
    Outgoing,
    Will,
)
from agent.waiting import set_within

MAX_OUTGOING_BYTES = 64 << 20
MAX_TOPIC_BYTES = 1000

__all__ = ["MAX_PAYLOAD_BYTES", "Message", "MqttLink", "MqttSettings", "Will"]


class MqttLink:
    """``on_disconnect`` gets one line for people, why and what to check, also when an attempt to connect fails.
    ``on_subscribed`` gets a topic filter and whether the broker granted it, at each connection.

    The callbacks may be set until ``start``.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        on_message: Callable[[Message], None] | None = None,
        on_connect: Callable[[], None] | None = None,
        on_disconnect: Callable[[str], None] | None = None,
        on_subscribed: Callable[[str, bool], None] | None = None,
        will: Will | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.settings = settings
        self.on_message = on_message
        self.on_connect = on_connect
        self.on_disconnect = on_disconnect
        self.on_subscribed = on_subscribed
        self._network = Network(settings, will, backoff or Backoff(), random.Random(), _Hop(self))  # noqa: S311
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._outstanding: set[asyncio.Future[None]] = set()
        self._outstanding_bytes = 0
        self._stopping = False

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    def start(self) -> None:
        """Begin to connect, without waiting for the broker. Once, on the event loop."""
        if self._loop is not None:
            raise RuntimeError("start() was called before; make a new MqttLink")
        self._loop = asyncio.get_running_loop()
        self._network.start()

    async def connected(self, timeout: float | None = None) -> bool:
        """Wait until the broker has accepted the login; False after ``timeout`` seconds."""
        return await set_within(self._connected, timeout)

    async def stop(self, publish_last: tuple[str, bytes] | None = None) -> None:
        """Publish ``publish_last`` (topic, payload; retained, QoS 1), disconnect, end the thread. Idempotent.

        Publishes that still wait end with LinkError. Takes at most a few seconds, whatever the broker does.
        """
        if publish_last is not None and self.is_connected and not self._stopping:
            with contextlib.suppress(LinkError, asyncio.TimeoutError):
                await asyncio.wait_for(self.publish(*publish_last, qos=1, retain=True), FAREWELL_TIMEOUT_S)
        self._stopping = True
        self._network.stop()
        if self._loop is None:
            self._network.close()
        else:
            # A silent host or name server can hold the thread for longer; as a daemon it ends by itself.
            await set_within(self._ended, 2 * FAREWELL_TIMEOUT_S)
        self._connected.clear()
        for future in list(self._outstanding):
            _settle(future, LinkError("the link to the broker was stopped before it acknowledged"))

    def subscribe(self, topic_filter: str, qos: int) -> None:
        """Subscribe now or once connected, and again after every reconnect. ValueError when it is no topic filter."""
        levels = topic_filter.split("/")
        if (
            not topic_filter
            or any(len(level) > 1 and set(level) & set("+#") for level in levels)
            or "#" in levels[:-1]
        ):
            raise ValueError(f"{topic_filter[:200]!r} is not a topic filter")
        self._network.subscribe(topic_filter, qos)

    def unsubscribe(self, topic_filter: str) -> None:
        self._network.unsubscribe(topic_filter)

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> asyncio.Future[None]:
        """The future is done at PUBACK (QoS 1), or when the socket has taken it (QoS 0); it always ends.

        QoS 1 waits for the next connection. LinkError: the link is stopped, too much waits already, the payload is
        larger than MAX_PAYLOAD_BYTES, the topic is none, or, with QoS 0, there is no connection or it broke.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        problem = self._objection(topic, payload, qos)
        if problem is not None:
            future.set_exception(LinkError(problem))
            return future
        self._outstanding.add(future)
        self._outstanding_bytes += len(payload)
        future.add_done_callback(lambda done: self._forget(done, len(payload)))
        self._network.publish(Outgoing(topic, payload, qos, retain, future))
        return future

    def _objection(self, topic: str, payload: bytes, qos: int) -> str | None:
        where = self.settings.where
        if self._stopping or self._loop is None:
            return "the link to the broker is not started, or was stopped"
        if qos == 0 and not self.is_connected:
            return f"not connected to {where}"
        if len(self._outstanding) >= MAX_OUTGOING or self._outstanding_bytes > MAX_OUTGOING_BYTES:
            return f"{len(self._outstanding)} messages wait for {where} already; it does not take them"
        if len(payload) > MAX_PAYLOAD_BYTES:
            return f"{topic[:200]}: {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES} in a message"
        if qos not in (0, 1):
            return f"QoS {qos} is not used here; choose 0 or 1"
        if not 0 < len(topic.encode()) <= MAX_TOPIC_BYTES or any(c in topic for c in "+#\0"):
            return f"{topic[:200]!r} is not a topic to publish on"
        return None

    def _forget(self, future: asyncio.Future[None], size: int) -> None:
        self._outstanding.discard(future)
        self._outstanding_bytes -= size

    # From the network thread, through _Hop.

    def _call_soon(self, function: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed without stop()
            self._loop.call_soon_threadsafe(function, *args)

    def _set_online(self) -> None:
        if not self._stopping:
            self._connected.set()
            if self.on_connect is not None:
                self.on_connect()

    def _set_offline(self, reason: str) -> None:
        self._connected.clear()
        if self.on_disconnect is not None and not self._stopping:
            self.on_disconnect(reason)

    def _set_subscribed(self, topic_filter: str, granted: bool) -> None:
        if self.on_subscribed is not None and not self._stopping:
            self.on_subscribed(topic_filter, granted)

    def _deliver(self, message: Message) -> None:
        self._network.handled += 1
        self._network.handled_bytes += len(message.payload)
        if self.on_message is not None and not self._stopping:
            self.on_message(message)


class _Hop:
    """Carries what the network thread observes over to the link's event loop."""

    def __init__(self, link: MqttLink) -> None:
        self._link = link

    def online(self) -> None:
        self._link._call_soon(self._link._set_online)

    def offline(self, reason: str) -> None:
        self._link._call_soon(self._link._set_offline, reason)

    def subscribed(self, topic_filter: str, granted: bool) -> None:
        self._link._call_soon(self._link._set_subscribed, topic_filter, granted)

    def received(self, message: Message) -> None:
        self._link._call_soon(self._link._deliver, message)

    def settled(self, outgoing: Outgoing, error: LinkError | None) -> None:
        self._link._call_soon(_settle, outgoing.future, error)

    def ended(self) -> None:
        self._link._call_soon(self._link._ended.set)


def _settle(future: asyncio.Future[None], error: LinkError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _retrieve(future: asyncio.Future[None]) -> None:
    # Who publishes and does not look at the future is not told on stderr.
    if not future.cancelled():
        future.exception()
