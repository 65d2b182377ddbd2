"""Crowds of connections, what others see of one, and its end: on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from agent.serving.http.connection import Connection
from agent.serving.http.connections import Connections
from agent.serving.http.messages import Head, Reply, RequestError
from agent.serving.http.seat import ANSWERING, BUSY, IDLE, Seat

GET = b"GET %s HTTP/1.1\r\n\r\n"
POST = b"POST /later HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
LARGE = bytes(8 << 20)


class House:
    """A listening socket's connections. ``/later`` is answered by ``work``, ``/away`` handed over, ``/large`` large."""

    def __init__(self, seats: bool) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.states = bytearray(12)
        self.duplicates: list[socket.socket] = []
        self.ended: list[int] = []
        self.waiting: list[Connection] = []
        self.connections = Connections(self, self if seats else None)
        self.connections.listen(listener, door=True)
        self._clients: list[socket.socket] = []

    def open(self, fd: int) -> Seat | None:
        self.duplicates.append(socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM))
        slot = len(self.duplicates) - 1
        return Seat(self.states, slot) if slot < len(self.states) else None

    def close(self, seat: Seat) -> None:
        self.ended.append(seat.slot)

    def on_head(self, connection: Connection, head: Head) -> Reply | memoryview | None:
        if head.path == "/away":
            connection.hand_over(lambda _, __: None)
            return None
        if head.path == "/large":
            return Reply(200, (LARGE,))
        return memoryview(bytearray(head.content_length or 0))

    def on_body(self, connection: Connection, head: Head, body: memoryview) -> Reply | None:
        if head.path == "/later":
            self.waiting.append(connection)
            return None
        return Reply(200, (body,))

    def on_lost(self, connection: Connection) -> None:
        self.connections.forget(connection)

    def work(self) -> None:
        while self.waiting:
            self.waiting.pop().reply(Reply(200, (b"done",)))

    async def client(self, data: bytes = b"") -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, self.address)
        await loop.sock_sendall(sock, data)
        self._clients.append(sock)
        await asyncio.sleep(0.02)
        return sock

    async def end(self) -> None:
        await self.connections.close()
        for sock in (*self.duplicates, *self._clients):
            sock.close()


def descriptors() -> dict[str, str]:
    """What each of this process's descriptors is."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found[entry.name] = str(entry.readlink())
    return found


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Run steps on either loop; no descriptor may be left."""

    def run(steps: Callable[[House], Awaitable[None]], seats: bool = True) -> None:
        async def main() -> None:
            house = House(seats)
            try:
                await asyncio.wait_for(steps(house), 30)
            finally:
                await house.end()
            await asyncio.sleep(0.02)

        def play_in(what: Callable[[], Awaitable[None]]) -> None:
            loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
            try:
                loop.run_until_complete(what())
            finally:
                loop.close()

        play_in(lambda: asyncio.sleep(0))  # uvloop's first loop opens two descriptors that stay
        before = descriptors()
        play_in(main)
        assert {number: what for number, what in descriptors().items() if number not in before} == {}

    return run


async def read(sock: socket.socket) -> bytes:
    """What comes next; empty at the end."""
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1 << 20), 20)


async def write(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)
    await asyncio.sleep(0.02)


def test_others_see_how_far_a_request_is(play: Callable[..., None]) -> None:
    async def steps(house: House) -> None:
        client = await house.client()
        assert house.states[0] == IDLE
        for piece in (POST[:9], POST[9:-2], POST[-2:], b"hell"):
            await write(client, piece)
            assert house.states[0] == BUSY
        await write(client, b"oGET")  # and some of the next one
        assert house.states[0] == BUSY and len(house.waiting) == 1
        house.work()
        await asyncio.sleep(0.02)
        assert house.states[0] == BUSY
        await write(client, b" /x HTTP/1.1\r\n\r\n")
        assert house.states[0] == IDLE

    play(steps)


def test_an_answer_that_is_not_taken_has_begun(play: Callable[..., None]) -> None:
    async def steps(house: House) -> None:
        client = await house.client(GET % b"/large")
        assert house.states[0] == ANSWERING
        got = 0
        while got < len(LARGE):
            got += len(await read(client))
        await asyncio.sleep(0.05)
        assert house.states[0] == IDLE

    play(steps)


@pytest.mark.parametrize("way", ["close", "abort", "refuse"])
def test_the_end_is_the_end_for_all_who_hold_the_socket(play: Callable[..., None], way: str) -> None:
    async def steps(house: House) -> None:
        client = await house.client()
        (connection,) = house.connections
        if way == "refuse":
            await write(client, b"nonsense\r\n\r\n")
            assert (await read(client)).startswith(b"HTTP/1.1 400 ")
            connection.expire(asyncio.get_running_loop().time() + 60)
        else:
            getattr(connection, way)()
        assert await read(client) == b""
        await asyncio.sleep(0.02)
        assert house.ended == [0] and house.duplicates[0].recv(1) == b""

    play(steps)


def test_handing_over_is_no_end(play: Callable[..., None]) -> None:
    async def steps(house: House) -> None:
        client = await house.client(GET % b"/away")
        assert len(house.connections) == 0
        house.duplicates[0].send(b"still here")
        assert await read(client) == b"still here"

    play(steps)


def test_what_came_with_the_end_is_looked_at_first(play: Callable[..., None]) -> None:
    async def steps(house: House) -> None:
        client, ours = socket.socketpair()
        with client:
            client.shutdown(socket.SHUT_WR)
            client.setblocking(False)
            house.connections.adopt(ours, True, POST + b"he")
            assert b"2 of 5 bytes" in await read(client)

    play(steps)


def test_who_says_nothing_makes_way_then_who_says_it_slowly(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.serving.http.connections.MAX_CONNECTIONS", 3)

    async def steps(house: House) -> None:
        used = await house.client(GET % b"/x")
        assert (await read(used)).startswith(b"HTTP/1.1 200 ")
        silent, slow = await house.client(), await house.client(b"GET ")
        body = await house.client(POST)
        assert await read(silent) == b""
        await house.client(POST)
        assert (await read(slow)).startswith(b"HTTP/1.1 408 ") and await read(slow) == b""
        for _ in range(2):
            await house.client(POST + b"hello")
        assert (await read(body)).startswith(b"HTTP/1.1 408 ")
        await write(used, GET % b"/x")
        assert (await read(used)).startswith(b"HTTP/1.1 200 ")
        await house.client(POST + b"hello")
        assert await read(used) == b"" and len(house.waiting) == 3

    play(steps)


def test_when_all_are_at_work_nobody_is_let_in(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.serving.http.connections.MAX_CONNECTIONS", 3)
    monkeypatch.setattr("agent.serving.http.connections.MAX_OPEN", 5)

    async def steps(house: House) -> None:
        busy = [await house.client(POST + b"hello") for _ in range(3)]
        late = await house.client()
        await write(late, GET % b"/x")
        answer = await read(late)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in answer
        await house.client()
        await house.client()  # instead of who has his answer already
        assert await read(late) == b""
        assert await asyncio.wait_for(read(await house.client()), 2) == b""  # not even that
        house.work()
        for client in busy:
            assert (await read(client)).endswith(b"done")

    play(steps)


def test_without_a_seat_nobody_is_let_in(play: Callable[..., None]) -> None:
    async def steps(house: House) -> None:
        clients = [await house.client(GET % b"/x") for _ in range(len(house.states) + 1)]
        answers = [await read(client) for client in clients]
        assert [answer[9:12] for answer in answers] == [b"200"] * len(house.states) + [b"503"]

    play(steps)


@pytest.mark.parametrize("reply", [RequestError(503, "it crashed").reply(), None])
def test_a_request_that_was_read_elsewhere_gets_the_given_answer(
    play: Callable[..., None], reply: Reply | None
) -> None:
    async def steps(house: House) -> None:
        client, ours = socket.socketpair()
        with client:
            client.setblocking(False)
            client.send(b"rest of a body that nobody wants\r\n\r\n")
            house.connections.dismiss(ours, reply)
            answer = b""
            while piece := await read(client):
                answer += piece
            assert answer.startswith(b"HTTP/1.1 503 ") and b"it crashed" in answer if reply else answer == b""
            client.close()
            await asyncio.sleep(0.05)
            assert len(house.connections) == 0

    play(steps, seats=False)
