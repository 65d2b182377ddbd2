"""What a connection asks of whoever serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agent.serving.http.messages import Head, Reply

if TYPE_CHECKING:
    from agent.serving.http.connection import Connection


class Handler(Protocol):
    """Decides what a request gets. Both callbacks may raise RequestError."""

    def on_head(self, connection: Connection, head: Head, /) -> Reply | memoryview | None:
        """A reply, the memory for the whole body (``on_body`` follows), or None when it was handed over."""
        ...

    def on_body(self, connection: Connection, head: Head, body: memoryview, /) -> Reply | None:
        """A reply, or None when ``connection.reply`` follows."""
        ...

    def on_lost(self, connection: Connection, /) -> None:
        """The connection is closed or elsewhere."""
        ...
