"""The control channel: messages with descriptors, bounded, with a named end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from agent.errors import WorkerCrashed, WorkerError
from agent.serving.processes.channel import MAX_MESSAGE, MAX_WAITING, Channel, Message
from tests.unit.serving.descriptors import open_descriptors


class End:
    def __init__(self, sock: socket.socket) -> None:
        self.got: list[tuple[dict[str, Any], bytes, bytes]] = []
        self.closed = 0
        self.channel = Channel(sock, self._message, self._closed)

    def _message(self, message: Message) -> None:
        read = b""
        if message.fds:
            with message.take_socket() as sock:
                read = sock.recv(100)
        self.got.append((message.head, message.payload, read))
        if message.head.get("nonsense"):
            raise KeyError("nonsense")

    def _closed(self) -> None:
        self.closed += 1


def pair() -> tuple[End, End]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return End(left), End(right)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_messages_carry_payload_and_descriptors() -> None:
    async def run() -> None:
        left, right = pair()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.send(b"hello")
            left.channel.send({"op": "x"}, b"a\nb", [theirs.fileno()])
        await settle()
        assert right.got == [({"op": "x"}, b"a\nb", b"hello")]
        left.channel.close()
        await settle()
        assert right.closed == 1 and left.closed == 0
        with pytest.raises(WorkerCrashed):
            right.channel.send({})

    asyncio.run(run())


def test_an_end_that_does_not_read_is_bounded_and_loses_nothing() -> None:
    async def run() -> None:
        before = len(open_descriptors())
        left, right = pair()
        ours, theirs = socket.socketpair()
        sent = 0
        with ours, theirs:
            ours.send(b"x" * 100_000)
            with pytest.raises(WorkerError, match="overloaded"):
                for sent in range(10 * MAX_WAITING):
                    left.channel.send({"n": sent}, bytes(30_000), [theirs.fileno()])
            assert sent >= MAX_WAITING
            while len(right.got) < sent:
                await asyncio.sleep(0)
        assert [head["n"] for head, _, _ in right.got] == list(range(sent))
        left.channel.close()
        right.channel.close()
        assert len(open_descriptors()) <= before

    asyncio.run(run())


def test_what_is_too_large_is_refused_here() -> None:
    async def run() -> None:
        left, right = pair()
        with pytest.raises(WorkerError, match="control message"):
            left.channel.send({}, bytes(MAX_MESSAGE))
        left.channel.send({}, bytes(MAX_MESSAGE - 3))
        await settle()
        assert len(right.got) == 1
        left.channel.close()
        right.channel.close()

    asyncio.run(run())


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[1]", b'{"nonsense": 1}'])
def test_nonsense_ends_the_channel(data: bytes) -> None:
    async def run() -> None:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with left:
            end = End(right)
            left.send(data) if data else left.close()
            await settle()
            assert end.closed == 1

    asyncio.run(run())
