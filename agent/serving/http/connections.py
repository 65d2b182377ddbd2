"""The open connections of one process: accepted or adopted, bounded in number, watched for deadlines."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from typing import Protocol

from agent.serving.http.connection import IDLE_S, Connection
from agent.serving.http.handler import Handler
from agent.serving.http.messages import RETRY, Reply, RequestError
from agent.serving.http.seat import Seat

MAX_CONNECTIONS = (
    128  # accepted here; then the most dispensable make way, or, all being at work, none is let in
)
MAX_ADOPTED = 192  # with those from another process; then the most dispensable make way
MAX_OPEN = 512  # with those that are being turned away
SWEEP_S = 1.0
MAX_ACCEPTS = 16  # per wake-up, so that one flood does not starve the rest
PAUSE_S = 0.5  # after accept failed, e.g. for want of descriptors

log = logging.getLogger(__name__)


class Seats(Protocol):
    """Who gives connections their seats; each is closed once."""

    def open(self, fd: int) -> Seat | None:
        """The seat of a connection that was accepted here; None when none can be had."""
        ...

    def close(self, seat: Seat) -> None:
        """Its connection is closed."""
        ...


class Connections:
    """Makes a Connection of every socket. ``on_lost`` of the handler must call ``forget``."""

    def __init__(self, handler: Handler, seats: Seats | None = None) -> None:
        self._handler = handler
        self._seats = seats
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._listeners: dict[int, tuple[socket.socket, bool]] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def listen(self, listener: socket.socket, door: bool) -> None:
        """Accept from a listening socket, which belongs to this object from now on."""
        listener.setblocking(False)
        self._listeners[listener.fileno()] = (listener, door)
        self._loop.add_reader(listener.fileno(), self._accept, listener.fileno())

    def stop_listening(self) -> None:
        """Close the listening sockets of this process; connections stay."""
        for fd, (listener, _) in self._listeners.items():
            self._loop.remove_reader(fd)
            listener.close()
        self._listeners.clear()

    def adopt(self, sock: socket.socket, door: bool, unread: bytes = b"", seat: Seat | None = None) -> None:
        """Serve a connected socket whose bytes ``unread`` were already received elsewhere."""
        if len(self) >= MAX_ADOPTED:
            self._make_room(MAX_ADOPTED)
        connection = Connection(self._handler, door, unread, IDLE_S, seat=seat)
        connection.served = not unread
        self._add(sock, connection)

    def dismiss(self, sock: socket.socket, reply: Reply | None) -> None:
        """Answer a request that was read elsewhere, unless somebody began to; then close."""
        self._add(sock, _Dismissed(_Full(self), reply))

    def forget(self, connection: Connection) -> None:
        """The connection is closed or elsewhere."""
        self._open.discard(connection)
        seat, connection.seat = connection.seat, None
        if seat is not None and self._seats is not None:
            self._seats.close(seat)

    async def close(self) -> None:
        """Close everything at once."""
        self.stop_listening()
        if self._starting:
            await asyncio.wait(list(self._starting))
        for connection in self:
            connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.sleep(0)  # let the transports close their sockets

    def _accepted(self, sock: socket.socket, door: bool) -> None:
        welcome = len(self) < MAX_CONNECTIONS or self._make_room(MAX_CONNECTIONS)
        seat = self._seats.open(sock.fileno()) if welcome and self._seats else None
        if not welcome or (self._seats and not seat):
            self._add(sock, Connection(_Full(self), door, once=True))
        else:
            self._add(sock, Connection(self._handler, door, seat=seat))

    def _make_room(self, limit: int) -> bool:
        """Close a connection that waits for its client, if one must go; False when none does.

        So those who connect and say nothing, or say it slowly, push each other out before anybody else.
        """
        staying = [one for one in self._open if not one.once and not one.leaving]
        if len(staying) < limit:
            return True
        waiting = [(order, connection) for connection in staying if (order := connection.dispensable)]
        if not waiting:
            return False
        min(waiting, key=lambda pair: pair[0])[1].make_way()
        return True

    def _add(self, sock: socket.socket, connection: Connection) -> None:
        if len(self) >= MAX_OPEN:
            lingering = next((one for one in self._open if one.lingering), None)
            if lingering is None:
                sock.close()
                self.forget(connection)
                return
            lingering.abort()
        self._open.add(connection)
        task = self._loop.create_task(self._start(sock, connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except (OSError, ValueError):  # gone already, or not a stream socket
            sock.close()
            self.forget(connection)
            return
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)

    def _accept(self, fd: int) -> None:
        listener, door = self._listeners[fd]
        for _ in range(MAX_ACCEPTS):
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("cannot accept connections: %s; trying again", error)
                self._loop.remove_reader(fd)
                self._loop.call_later(PAUSE_S, self._accept_again, fd)
                return
            self._accepted(sock, door)

    def _accept_again(self, fd: int) -> None:
        if fd in self._listeners:
            self._loop.add_reader(fd, self._accept, fd)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in self:
            connection.expire(now)
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep) if self._open else None


class _Full:
    """Handler of connections beyond the limit: 503 to their first request, which is read so that it gets through."""

    def __init__(self, connections: Connections) -> None:
        self.on_lost = connections.forget

    def on_head(self, *_: object) -> Reply | memoryview | None:
        raise RequestError(503, "too many connections are open; try again", RETRY)

    def on_body(self, *_: object) -> Reply | None:
        raise NotImplementedError("on_head asks for no body")


class _Dismissed(Connection):
    """Says its reply, if any, and closes."""

    def __init__(self, handler: Handler, reply: Reply | None) -> None:
        super().__init__(handler, door=True, once=True)
        self._last = reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.leave(self._last)
