"""What the parts of the link share: settings, messages, and what the network thread tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.errors import LinkError

MAX_PAYLOAD_BYTES = 1 << 20  # NATS's default; nothing of ours is larger
MAX_OUTGOING = 1000  # publishes that wait for their acknowledgement
FAREWELL_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """Whom to call and as whom. TLS is on when ``ca`` is set; ``clean_session=False`` asks for a persistent session."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    keepalive_s: int = 30
    clean_session: bool = False

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes (QoS 1, retained) when this client vanishes."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """What arrived. QoS 1: the broker keeps it until ``ack`` is called (any thread, more than once is harmless)."""

    topic: str
    payload: bytes
    retain: bool
    ack: Callable[[], None]


@dataclass(slots=True)
class Outgoing:
    """A publish under way; ``future`` belongs to the event loop."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    future: asyncio.Future[None]


class Observer(Protocol):
    """Called on the network thread."""

    def online(self) -> None: ...
    def offline(self, reason: str) -> None: ...
    def subscribed(self, topic_filter: str, granted: bool) -> None: ...
    def received(self, message: Message) -> None: ...
    def settled(self, outgoing: Outgoing, error: LinkError | None) -> None: ...
    def ended(self) -> None: ...
