"""Custody of connections: what a worker serves is also held by the daemon, so that a crash costs nobody silently.

Every connection of a worker has a slot: the daemon numbers those that it passes, the worker those that it accepts. The
daemon keeps a duplicate of each; so whoever ends a connection must shut its socket down, and tell the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass

from agent.errors import WorkerError
from agent.serving.http.seat import ANSWERING, BUSY, IDLE, Seat
from agent.serving.processes.channel import Channel, Message, as_socket
from agent.serving.processes.vitals import SLOTS, Vitals

PASSED = 256  # slots below are for connections that the daemon passes
TELL_S = 0.05  # ends of connections are told together
TELL_AT = 64


@dataclass(frozen=True, slots=True)
class Orphan:
    """A connection whose worker is gone. ``state``: see ``Seat``; the socket belongs to who gets this."""

    sock: socket.socket
    door: bool
    state: int


class Custody:
    """The daemon's side. ValueError for what no worker in its right mind says."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._kept: dict[int, tuple[int, bool]] = {}  # slot: duplicate, came through the front door
        self._free = list(range(PASSED))

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, fd: int, door: bool, busy: bool) -> int:
        """Slot of a connection that is about to be passed. Raises WorkerError when none is free."""
        if not self._free:
            raise WorkerError(f"{PASSED} connections are open to it")
        try:
            copy = os.dup(fd)
        except OSError as error:
            raise WorkerError(f"the daemon is short of descriptors: {error.strerror}") from error
        slot = self._free.pop()
        self._kept[slot] = copy, door
        self._vitals.states[slot] = BUSY if busy else IDLE
        return slot

    def release(self, slot: int) -> Orphan | None:
        """The worker gives a connection back. None for one that is not under custody: it has ended with this."""
        copy, door = self._take(slot)
        return None if copy < 0 else Orphan(as_socket(copy), door, IDLE)

    def drop(self, slot: int) -> None:
        """The connection has ended, or the worker never got it."""
        copy, _ = self._take(slot)
        if copy >= 0:
            os.close(copy)

    def received(self, message: Message) -> None:
        """``closed`` and ``opened``, in this order: a slot may be told of in both."""
        for slot in message.head.get("closed", ()):
            self.drop(int(slot))
        if "opened" not in message.head:
            return
        slot = int(message.head["opened"])
        if not PASSED <= slot < SLOTS or slot in self._kept:
            raise ValueError(f"slot {slot} is not the worker's to give")
        # Without a descriptor when the daemon was short of them: the connection lives, but not under custody.
        self._kept[slot] = (message.fds.pop(0) if message.fds else -1), False

    def end(self) -> list[Orphan]:
        """The worker is gone: what it had; nothing is kept any more."""
        orphans = []
        for slot, (copy, door) in self._kept.items():
            if copy >= 0:
                with contextlib.suppress(ValueError):  # no socket
                    orphans.append(Orphan(as_socket(copy), door, self._vitals.states[slot]))
        self._kept.clear()
        return orphans

    def _take(self, slot: int) -> tuple[int, bool]:
        if slot not in self._kept:
            raise ValueError(f"slot {slot} is empty")
        if slot < PASSED:
            self._free.append(slot)
        return self._kept.pop(slot)


class Slots:
    """The worker's side: a seat for every connection, of which the daemon knows."""

    def __init__(self, vitals: Vitals, channel: Channel) -> None:
        self._states = vitals.states
        self._channel = channel
        self._free = list(range(PASSED, SLOTS))
        self._closed: list[int] = []
        self._telling: asyncio.TimerHandle | None = None

    def seat(self, slot: int) -> Seat:
        """That of a connection that the daemon passed."""
        return Seat(self._states, slot)

    def open(self, fd: int) -> Seat | None:
        """That of a connection that was accepted here; None when none can be had."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._states[slot] = IDLE
        try:
            self._channel.send({"op": "slots", "opened": slot, "closed": self._closed}, b"", [fd])
        except WorkerError:  # the daemon does not read: it is overloaded
            self._free.append(slot)
            return None
        self._closed = []
        return Seat(self._states, slot)

    def close(self, seat: Seat) -> None:
        """The connection was shut down."""
        self._states[seat.slot] = ANSWERING
        self.free(seat)
        self._closed.append(seat.slot)
        if len(self._closed) >= TELL_AT:
            self.tell()
        elif self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self.tell)

    def free(self, seat: Seat) -> None:
        """The daemon has the connection back."""
        if seat.slot >= PASSED:
            self._free.append(seat.slot)

    def tell(self) -> None:
        """Tell the daemon now of what was closed."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if not self._closed:
            return
        try:
            self._channel.send({"op": "slots", "closed": self._closed})
            self._closed = []
        except WorkerError:  # later, with the next
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self.tell)
