"""The control channel between the daemon and a worker: a SOCK_SEQPACKET socket pair.

A message is one packet: a JSON object, a newline, raw payload bytes; descriptors travel beside it (SCM_RIGHTS).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import WorkerCrashed, WorkerError, one_line

MAX_MESSAGE = 128 * 1024  # a packet must fit the default socket buffer of Linux (208 KiB)
MAX_WAITING = 256
_MAX_FDS = 4


@dataclass(slots=True)
class Message:
    """``fds`` belong to the channel until taken: those left after the callback are closed."""

    head: dict[str, Any]
    payload: bytes
    fds: list[int]

    def take_socket(self) -> socket.socket:
        """The message's first descriptor as a socket; ValueError when it brought none."""
        if not self.fds:
            raise ValueError("a message that needs a descriptor came without one")
        return as_socket(self.fds.pop(0))


def as_socket(fd: int) -> socket.socket:
    """Takes a descriptor over; ValueError, and it is closed, when it is no socket's."""
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise ValueError("a descriptor that should be a socket is none") from error


class Channel:
    """One end, on the running event loop. ``on_closed``: the other end is gone or talks nonsense; called once.

    ``nonsense`` then says what was not understood, if that was it.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[Message], None], on_closed: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)
        self.closed = False
        self.nonsense = ""

    def send(self, head: dict[str, Any], payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send or queue; the caller keeps its descriptors.

        Raises WorkerCrashed (other end gone), WorkerError (too large, or the other end does not read).
        """
        data = json.dumps(head, separators=(",", ":")).encode() + b"\n" + payload
        if len(data) > MAX_MESSAGE:
            raise WorkerError(f"control message of {len(data)} bytes; at most {MAX_MESSAGE} are possible")
        if self.closed:
            raise WorkerCrashed("the worker is gone")
        if not self._waiting and self._try_send(data, fds):
            return
        if len(self._waiting) >= MAX_WAITING:
            raise WorkerError(f"{MAX_WAITING} control messages wait for the worker; it is overloaded")
        self._waiting.append((data, [os.dup(fd) for fd in fds]))
        self._loop.add_writer(self._sock.fileno(), self._writable)

    def close(self) -> None:
        """Close this end without calling ``on_closed``."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._waiting:
            _close_all(fds)
        self._waiting.clear()

    def _try_send(self, data: bytes, fds: Sequence[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost()
            raise WorkerCrashed(f"the worker is gone: {error.strerror}") from error
        return True

    def _writable(self) -> None:
        with contextlib.suppress(WorkerCrashed):
            while self._waiting and self._try_send(*self._waiting[0]):
                _close_all(self._waiting.popleft()[1])
        if not self._waiting and not self.closed:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(_MAX_FDS * 4))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lost()
            return
        fds = _descriptors(ancillary)  # fewer than were sent when this process may not have more
        if not data:
            _close_all(fds)
            self._lost()
            return
        try:
            if flags & socket.MSG_TRUNC:
                raise ValueError(f"a message of more than {MAX_MESSAGE} bytes")
            head, _, payload = data.partition(b"\n")
            fields = json.loads(head)
            if not isinstance(fields, dict):
                raise ValueError("a message that is no object")
            self._on_message(Message(fields, payload, fds))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            self.nonsense = f"{type(error).__name__}: {one_line(error)}"
            self._lost()
        finally:
            _close_all(fds)

    def _lost(self) -> None:
        if not self.closed:
            self.close()
            self._on_closed()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
