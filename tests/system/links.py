"""MqttLink with its events recorded, for system tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from agent.link.backoff import Backoff
from agent.link.client import Message, MqttLink, MqttSettings, Will
from tests.system.brokers import Broker

QUICK = Backoff(floor_s=0.05, cap_s=0.2)
R = TypeVar("R", bound="Recorded")


class Recorded(MqttLink):
    """Started by ``async with``; keeps messages, numbers of connections and reasons."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        clean: bool = True,
        ack: bool = True,
        will: Will | None = None,
        backoff: Backoff = QUICK,
        **settings: Any,
    ) -> None:
        self.messages: list[Message] = []
        self.reasons: list[str] = []
        self.connections = 0
        self._ack_at_once = ack
        settings.setdefault("ca", broker.ca)
        super().__init__(
            MqttSettings(broker.host, broker.port, client_id, clean_session=clean, **settings),
            on_message=self._keep,
            on_connect=self._count,
            on_disconnect=self.reasons.append,
            will=will,
            backoff=backoff,
        )

    def _keep(self, message: Message) -> None:
        self.messages.append(message)
        if self._ack_at_once:
            message.ack()

    def _count(self) -> None:
        self.connections += 1

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    async def ready(self) -> None:
        """Connected, and the broker has taken every subscription made so far: it works in order."""
        assert await self.connected(10), self.reasons
        await asyncio.wait_for(self.publish("ready", b"", qos=1), 10)

    def cut(self) -> None:
        """Break the connection below the link, as a lost network does: no DISCONNECT is sent."""
        client = self._network._client
        sock = client.socket() if client is not None else None
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]

    async def __aenter__(self: R) -> R:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something that must happen; AssertionError when it does not."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
