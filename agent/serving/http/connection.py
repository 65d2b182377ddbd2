"""One HTTP/1.1 connection, in the daemon's front door or in a worker.

Reads heads into a buffer of 16 KB and bodies straight into the memory that the handler gives. The same socket can move
between processes: ``hand_over`` passes its descriptor and its unread bytes on.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import cast

from agent.serving.http.handler import Handler
from agent.serving.http.messages import MAX_HEAD, Head, Reply, RequestError, parse_head
from agent.serving.http.peers import Peer
from agent.serving.http.seat import ANSWERING, BUSY, IDLE, Seat

HEAD_S = 5.0  # from the first byte to the end of a head
IDLE_S = 75.0  # between requests
STALL_S = 30.0  # without a byte of a body, or of a response taken
JOIN_BYTES = 16 * 1024  # a small response goes in one piece; joining a large one would only copy it
FRESH_S = 0.1  # from its acceptance until what a client sent with it has surely been looked at
LINGER_S = 2.0  # a client may still read the answer to a request that was not read to its end


class _State(enum.Enum):
    NEW = enum.auto()  # without a transport yet
    HEAD = enum.auto()
    BODY = enum.auto()
    BUSY = enum.auto()  # the handler will reply
    LINGER = enum.auto()  # answered; what still arrives is thrown away
    GONE = enum.auto()


class Connection(asyncio.BufferedProtocol):
    """``door``: it came through the front door, else through the model's own socket.

    ``first_s``: until the first byte; ``once``: closed after one request; ``seat``: where others see its state.
    """

    def __init__(
        self,
        handler: Handler,
        door: bool,
        unread: bytes = b"",
        first_s: float = HEAD_S,
        once: bool = False,
        seat: Seat | None = None,
    ) -> None:
        self.door = door
        self.head = b""  # of the newest request, as it came
        self.served = False  # a request at least
        self.seat = seat
        self._states = seat.states if seat else bytearray(1)
        self._slot = seat.slot if seat else 0
        self.peer: Peer
        self._handler = handler
        self.once = once
        self._loop = asyncio.get_running_loop()
        # One byte more than it comes with: uvloop may read before the first look at what is there.
        self._buffer = bytearray(max(MAX_HEAD, len(unread)) + 1)
        self._buffer[: len(unread)] = unread
        self._filled = len(unread)
        self._state = _State.NEW
        self._partial = False
        self._blocked = False
        self._unsent = 0
        self._keep_alive = True
        self._only_head = False  # the answer to HEAD has no body
        self._body = memoryview(b"")
        self._received = 0
        self._deadline = self._loop.time() + first_s
        self._fresh_until = self._loop.time() + FRESH_S

    @property
    def idle(self) -> bool:
        """Between requests, with every answer sent."""
        return self._state is _State.HEAD and not self._blocked

    def reply(self, reply: Reply) -> None:
        """Answer a request that ``on_body`` left open; nothing happens when the client has gone."""
        if self._state is _State.BUSY:
            self._send(reply)
            self._advance()

    def hand_over(self, send: Callable[[int, bytes], None], request: bytes = b"") -> bool:
        """``send(descriptor, unread bytes)``, then forget the socket. False (nothing sent) when answers are unsent.

        Only from ``on_head`` or while ``idle``, or with the whole ``request`` that ``on_body`` left open, which is then
        unread again; errors of ``send`` leave the connection here.
        """
        left_open = bool(request) and self._state is _State.BUSY and not self._blocked
        if not self.idle and not left_open:
            return False
        send(self.peer.fileno, request + bytes(self._buffer[: self._filled]))
        self._state = _State.GONE
        self._transport.abort()
        return True

    @property
    def leaving(self) -> bool:
        """It is being closed, or will be soon."""
        return self.lingering or (self._state is not _State.NEW and self._transport.is_closing())

    @property
    def lingering(self) -> bool:
        """Open only so that its client may read an answer."""
        return self._state is _State.LINGER and not self._transport.is_closing()

    @property
    def dispensable(self) -> tuple[bool, float] | None:
        """Sorts connections that wait for their clients: those that were of no use yet first, then by patience left.

        None while a request is worked on.
        """
        if self._waits_for_us or self.leaving:
            return None
        return self.served, self._deadline

    def make_way(self) -> None:
        """Close a dispensable connection for another one's sake."""
        if self._blocked:
            self._transport.abort()
        elif self._state is _State.BODY or self._filled:
            error = RequestError(408, "the request came too slowly while others waited for a connection")
            self._refuse(error, linger=False)
        else:
            self._transport.close()

    def close(self) -> None:
        """Close when what waits is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close without sending what waits."""
        self._transport.abort()

    def leave(self, reply: Reply | None) -> None:
        """Close, after an answer to what somebody else has read, unless that one began to answer."""
        if reply is None:
            self._state, self._deadline = _State.LINGER, self._loop.time() + LINGER_S
            self._end_sending()
        else:
            self._keep_alive = False
            self._send(reply)

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed; called about every second."""
        if self._waits_for_us or now < self._deadline:
            return
        unsent = self._transport.get_write_buffer_size()
        if self._blocked and unsent < self._unsent:
            self._unsent, self._deadline = unsent, now + STALL_S
        elif self._blocked or self._state is _State.LINGER:
            self._transport.abort()
        elif self._state is _State.BODY or self._filled:
            self._refuse(RequestError(408, "the request did not arrive in time"))
        else:
            self._transport.close()

    @property
    def _waits_for_us(self) -> bool:
        return self._state is _State.NEW or (self._state is _State.BUSY and not self._blocked)

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._state = _State.HEAD
        self._transport = cast(asyncio.Transport, transport)
        self.peer = Peer(transport)
        self._transport.set_write_buffer_limits(high=0)  # "blocked" then means: not everything is sent
        self._loop.call_soon(self._advance)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        if self._state is _State.BODY:
            return self._body[self._received :]
        if self._state is _State.LINGER:
            return memoryview(self._buffer)
        if self._state is _State.HEAD:
            # Who is killed between reading and saying so would take a request along.
            self._states[self._slot] = BUSY
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._state is _State.BODY:
            self._received += nbytes
            self._deadline = self._loop.time() + STALL_S
            if self._received == len(self._body):
                self._complete()
                self._advance()
                # uvloop has filled all the memory it was given, so it asks for more at once, though nothing may come.
                self._loop.call_soon(self._advance)
        elif self._state is not _State.LINGER:
            self._filled += nbytes
            self._advance()

    def eof_received(self) -> bool:
        if self._filled:  # it came with this, which uvloop does not let be looked at first
            self._advance()
        if self._state is _State.BODY:
            got, want = self._received, len(self._body)
            self._refuse(RequestError(400, f"the body ended after {got} of {want} bytes"), linger=False)
        self._advance()  # uvloop may see the end before the first look at what the connection brought
        return self._state is _State.BUSY or self._blocked  # a client may half-close and wait for its answer

    def pause_writing(self) -> None:
        self._blocked = True
        self._unsent = self._transport.get_write_buffer_size()
        self._deadline = self._loop.time() + STALL_S

    def resume_writing(self) -> None:
        self._blocked = False
        self._deadline = self._loop.time() + (LINGER_S if self._state is _State.LINGER else IDLE_S)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.seat is not None and self._state is not _State.GONE:
            self.peer.shut_down()
        self._state = _State.GONE
        self._handler.on_lost(self)

    # requests

    def _advance(self) -> None:
        """Work off what has been read; then read on, or not while an answer is being made or sent."""
        while self.idle and not self._transport.is_closing():
            while self._filled >= 2 and self._buffer.startswith(b"\r\n"):  # some clients end bodies with it
                self._take(2)
            end = self._buffer.find(b"\r\n\r\n", 0, min(self._filled, MAX_HEAD))
            if end < 0:
                self._await_head()
                break
            self._request(end + 4)
        if self._state is not _State.GONE and not self._transport.is_closing():
            if self._blocked or self._state is _State.BUSY:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _await_head(self) -> None:
        self._states[self._slot] = BUSY if self._filled else IDLE
        if self._filled >= MAX_HEAD:
            self._refuse(RequestError(431, f"the head of the request is larger than {MAX_HEAD} bytes"))
        elif self._filled and not self._partial:
            self._partial = True
            self._deadline = self._loop.time() + HEAD_S

    def _request(self, size: int) -> None:
        self._states[self._slot] = BUSY
        self._partial = False
        self._keep_alive = False
        try:
            self.head = bytes(self._buffer[:size])
            head = parse_head(self.head)
            self._only_head = head.method == "HEAD"
            self._keep_alive = (
                head.keep_alive and not head.has_body and not self.once
            )  # a refused body is not read
            answer = self._handler.on_head(self, head)
        except RequestError as error:
            answer = error.reply()
        if self._state is _State.GONE:
            return
        self._take(size)
        if isinstance(answer, Reply):
            self._send(answer)
            return
        assert answer is not None
        self._keep_alive = head.keep_alive
        self._begin_body(head, answer)

    def _begin_body(self, head: Head, body: memoryview) -> None:
        self._head, self._body = head, body
        self._received = min(len(body), self._filled)
        body[: self._received] = self._buffer[: self._received]
        self._take(self._received)
        if self._received == len(body):
            self._complete()
            return
        self._state = _State.BODY
        self._deadline = self._loop.time() + STALL_S
        if head.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _complete(self) -> None:
        self._state = _State.BUSY
        body, self._body = self._body, memoryview(b"")
        try:
            answer = self._handler.on_body(self, self._head, body)
        except RequestError as error:
            answer = error.reply()
        if answer is not None:
            self._send(answer)

    def _refuse(self, error: RequestError, linger: bool = True) -> None:
        self._keep_alive = False
        self._send(error.reply(), linger)

    def _send(self, reply: Reply, linger: bool = True) -> None:
        self._states[self._slot] = ANSWERING
        self.served = True
        self._state = _State.HEAD if self._keep_alive else _State.LINGER
        self._deadline = self._loop.time() + (IDLE_S if self._keep_alive else LINGER_S)
        # Not writelines(): in Python 3.12 and 3.13 it does not tell when the peer does not read.
        parts = [reply.head(self._keep_alive), *(() if self._only_head else reply.parts)]
        self._only_head = False
        if sum(len(part) for part in parts) <= JOIN_BYTES:
            parts = [b"".join(parts)]
        for part in parts:
            self._transport.write(part)
        if self._keep_alive:
            return
        if linger:
            self._end_sending()
        else:
            self._transport.close()

    def _end_sending(self) -> None:
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection; asyncio's own loop shuts it down at once
            self._transport.abort()

    def _take(self, size: int) -> None:
        """Drop the first bytes of the buffer."""
        rest = self._filled - size
        self._buffer[:rest] = self._buffer[size : self._filled]
        self._filled = rest
