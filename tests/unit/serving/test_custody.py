"""Custody of connections: both sides over a real channel, and a worker that talks nonsense."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import WorkerCrashed, WorkerError
from agent.serving.http.seat import ANSWERING, BUSY, IDLE
from agent.serving.processes.channel import Channel, Message
from agent.serving.processes.custody import PASSED, TELL_AT, Custody, Orphan, Slots
from agent.serving.processes.process import Worker
from agent.serving.processes.spawn import Spawned, ends
from agent.serving.processes.vitals import SLOTS, Vitals
from tests.unit.serving.descriptors import open_descriptors
from tests.unit.serving.test_engine import make_spec


class Sides:
    """The daemon's custody and a worker's slots; ``clients`` are the far ends of the worker's connections."""

    def __init__(self) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.vitals = Vitals.create()
        self.custody = Custody(self.vitals)
        self.slots = Slots(self.vitals, Channel(far, lambda _: None, lambda: None))
        self.channel = Channel(near, self.custody.received, lambda: None)
        self._far = self.slots._channel

    def close(self) -> list[Orphan]:
        orphans = self.custody.end()
        self.channel.close()
        self._far.close()
        self.vitals.close()
        return orphans


def play(steps: Callable[[Sides], Awaitable[None]]) -> None:
    async def run() -> None:
        sides = Sides()
        before = len(open_descriptors())
        await asyncio.wait_for(steps(sides), 30)
        for orphan in sides.custody.end():
            orphan.sock.close()
        assert len(open_descriptors()) <= before
        sides.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")


def test_what_a_worker_accepts_outlives_it() -> None:
    async def steps(sides: Sides) -> None:
        client, accepted = socket.socketpair()
        with client:
            with accepted:
                seat = sides.slots.open(accepted.fileno())
                assert seat is not None and PASSED <= seat.slot < SLOTS
                await until(lambda: len(sides.custody) == 1)
                seat.states[seat.slot] = BUSY
            (orphan,) = sides.custody.end()
            assert (orphan.door, orphan.state) == (False, BUSY)
            with orphan.sock:
                orphan.sock.send(b"sorry")
            assert client.recv(10) == b"sorry"

    play(steps)


def test_what_is_passed_is_kept_until_it_is_closed_or_comes_back() -> None:
    async def steps(sides: Sides) -> None:
        client, passed = socket.socketpair()
        with client:
            with passed:
                slots = [sides.custody.keep(passed.fileno(), True, busy) for busy in (True, False)]
            assert [sides.vitals.states[slot] for slot in slots] == [BUSY, IDLE]
            sides.slots.close(sides.slots.seat(slots[0]))
            assert sides.vitals.states[slots[0]] == ANSWERING  # nothing may be said on it any more
            await until(lambda: len(sides.custody) == 1)
            back = sides.custody.release(slots[1])
            assert back is not None and back.door and len(sides.custody) == 0
            back.sock.close()
            assert client.recv(1) == b""

    play(steps)


def test_slots_are_bounded_and_used_again() -> None:
    async def steps(sides: Sides) -> None:
        _, sock = pair = socket.socketpair()
        slots = [sides.custody.keep(sock.fileno(), True, False) for _ in range(PASSED)]
        assert sorted(slots) == list(range(PASSED))
        with pytest.raises(WorkerError, match="256 connections"):
            sides.custody.keep(sock.fileno(), True, False)
        for round_ in range(3):
            seats = [sides.slots.open(sock.fileno()) for _ in range(SLOTS - PASSED)]
            assert None not in seats and sides.slots.open(sock.fileno()) is None
            await until(lambda: len(sides.custody) == SLOTS)
            for seat in seats:
                assert seat is not None
                sides.slots.close(seat)
            if round_ == 0:
                await until(lambda: len(sides.custody) == PASSED)
        await until(lambda: len(sides.custody) == PASSED)
        for end in pair:
            end.close()

    play(steps)


def test_ends_are_told_together() -> None:
    async def steps(sides: Sides) -> None:
        _, sock = pair = socket.socketpair()
        seats = [sides.slots.open(sock.fileno()) for _ in range(TELL_AT)]
        await until(lambda: len(sides.custody) == TELL_AT)
        for seat in seats[:-1]:
            assert seat is not None
            sides.slots.close(seat)
        await asyncio.sleep(0)
        assert len(sides.custody) == TELL_AT
        assert seats[-1] is not None
        sides.slots.close(seats[-1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(sides.custody) == 0
        for end in pair:
            end.close()

    play(steps)


class Puppet:
    """A worker whose side of the channel the test speaks for."""

    def __init__(self, root: Path) -> None:
        self.orphans: list[Orphan] = []
        self.worker = Worker(make_spec(root, []), lambda *_: None, self._returned, self._spawn)
        self.worker.on_orphans = lambda _, orphans: self.orphans.extend(orphans)

    async def _spawn(self, _: object) -> Spawned:
        with ends() as (ours, theirs):
            self.end = theirs.control.dup()
            self.end.settimeout(20)
            return Spawned(Process(), ours.control, ours.stderr)

    def _returned(self, _: Worker, sock: socket.socket, *__: object) -> None:
        sock.close()

    async def start(self) -> None:
        starting = asyncio.create_task(self.worker.start())
        await until(lambda: self.worker.vitals is not None)
        data, fds, _, _ = socket.recv_fds(self.end, 1 << 17, 4)
        assert json.loads(data.partition(b"\n")[0])["op"] == "load"
        os.close(fds[0])
        self.say({"op": "answer", "id": 0, "ok": {"load_s": 0.1, "memory_mb": 1}})
        await starting

    def say(self, message: Any, fds: list[int] | None = None) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds or []))] if fds else []
        self.end.sendmsg([data], rights)


class Process:
    """What a worker's handle uses of a process."""

    pid = 0

    def __init__(self) -> None:
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.returncode = -9


OPENED = {"op": "slots", "opened": PASSED, "closed": []}


@pytest.mark.parametrize(
    ("message", "brings"),
    [
        (b"\xff\xfe", False),
        (b"", False),
        (b"[" * 100_000, False),
        ({"op": "dance"}, False),
        ({"op": "stats", "latency": [[1e999, 1]], "errors": 0}, False),
        ({"op": "stats", "latency": [], "errors": 1e999}, False),
        ({"op": "stats", "latency": 3, "errors": 0}, False),
        ({"op": "unwell", "name": "Nobody", "text": ""}, False),
        ({"op": "connection", "slot": 0, "door": True, "elsewhere": False}, True),
        ({"op": "connection", "slot": PASSED}, False),
        ({"op": "slots", "opened": 0, "closed": []}, True),
        ({"op": "slots", "opened": SLOTS, "closed": []}, True),
        ({"op": "slots", "opened": -1}, True),
        ({"op": "slots", "opened": "x"}, True),
        ({"op": "slots", "opened": 1e999}, True),
        ({"op": "slots", "closed": [300]}, False),
        ({"op": "slots", "closed": [[]]}, False),
        ({"op": "slots", "closed": 5}, False),
        ({"op": "slots", "closed": [PASSED, PASSED]}, False),
        ({"op": "slots", "opened": PASSED}, True),
    ],
)
def test_a_worker_that_talks_nonsense_is_ended_and_costs_nothing(
    tmp_path: Path, message: Any, brings: bool
) -> None:
    async def run() -> None:
        before = len(open_descriptors())
        puppet = Puppet(tmp_path)
        await puppet.start()
        client, accepted = socket.socketpair()
        with accepted:
            puppet.say(OPENED, [accepted.fileno()])
            puppet.say(message, [accepted.fileno()] if brings else [])
        await asyncio.wait_for(puppet.worker.gone.wait(), 20)
        if message:
            assert "was killed because it talked nonsense to the daemon: " in puppet.worker.cause
        for orphan in puppet.orphans:
            orphan.sock.close()
        assert client.recv(1) == b""
        client.close()
        puppet.end.close()
        assert len(open_descriptors()) <= before

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["file", "listener", "datagram"])
def test_what_is_no_connection_is_nobodys_orphan_or_closed_unserved(tmp_path: Path, kind: str) -> None:
    async def run() -> None:
        before = len(open_descriptors())
        puppet = Puppet(tmp_path)
        await puppet.start()
        listener = socket.create_server(("127.0.0.1", 0))
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        file = (tmp_path / "file").open("w")
        with listener, datagram, file:
            what: Any = {"file": file, "listener": listener, "datagram": datagram}[kind]
            puppet.say(OPENED, [what.fileno()])
            puppet.say({"op": "dance"})
            await asyncio.wait_for(puppet.worker.gone.wait(), 20)
            assert len(puppet.orphans) == (kind != "file")
        for orphan in puppet.orphans:
            orphan.sock.close()
        puppet.end.close()
        assert len(open_descriptors()) <= before

    asyncio.run(run())


def test_a_connection_that_cannot_be_passed_stays_with_the_sender(tmp_path: Path) -> None:
    async def run() -> None:
        before = len(open_descriptors())
        puppet = Puppet(tmp_path)
        await puppet.start()
        client, ours = socket.socketpair()
        puppet.end.close()
        with client, ours:
            with pytest.raises(WorkerCrashed):
                puppet.worker.pass_connection(ours.fileno(), b"GET", True)
            await asyncio.wait_for(puppet.worker.gone.wait(), 20)
            assert puppet.orphans == []
            ours.send(b"x")
            assert client.recv(1) == b"x"
        assert len(open_descriptors()) <= before

    asyncio.run(run())


def test_a_daemon_short_of_descriptors_does_not_blame_the_worker() -> None:
    async def steps(sides: Sides) -> None:
        sides.custody.received(Message({"opened": PASSED, "closed": []}, b"", []))
        assert len(sides.custody) == 1 and sides.custody.end() == []
        sides.custody.received(Message({"opened": PASSED, "closed": []}, b"", []))
        sides.custody.received(Message({"closed": [PASSED]}, b"", []))
        assert len(sides.custody) == 0
        sides.custody.received(Message({"opened": PASSED, "closed": []}, b"", []))
        assert sides.custody.release(PASSED) is None and len(sides.custody) == 0

    play(steps)
