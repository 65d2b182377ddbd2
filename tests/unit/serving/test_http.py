"""Heads, targets and connections, over a real socket pair."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.http.connection import Connection
from agent.serving.http.connections import Connections
from agent.serving.http.messages import MAX_HEAD, Head, Reply, RequestError, json_reply, parse_head
from agent.serving.http.seat import BUSY, IDLE, Seat
from agent.serving.protocol.targets import Target, check_method, parse_target
from agent.serving.worker.service import new_event_loop


def test_a_head_is_parsed() -> None:
    head = parse_head(b"POST /v2/models/a%2Db?x=1 HTTP/1.1\r\nContent-Length: 12\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    assert (head.method, head.path, head.content_length) == ("POST", "/v2/models/a%2Db", 12)
    assert head.headers["x-a"] == "1, 2" and head.keep_alive and head.has_body and not head.chunked


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00",  # TLS
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_other_heads_are_refused(head: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_head(head)
    assert caught.value.status == 400


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        parse_head(data + b"\r\n\r\n")
    except RequestError as error:
        assert error.status == 400


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v2", Target("server")),
        ("/v2/health/live", Target("live")),
        ("/v2/health/ready", Target("ready")),
        ("/v2/models/stats", Target("all-stats")),
        ("/v2/models/m/stats", Target("stats", "m")),
        ("/v2/repository/index", Target("index")),
        ("/v2/repository/models/m/load", Target("load", subject="m")),
        ("/v2/models/m", Target("metadata", "m")),
        ("/v2/models/m/ready", Target("ready", "m")),
        ("/v2/models/m/infer", Target("infer", "m")),
        ("/v2/models/m/versions/1.0%2Bx", Target("metadata", "m", "1.0+x")),
        ("/v2/models/m/versions/1/infer", Target("infer", "m", "1")),
    ],
)
def test_targets(path: str, target: Target) -> None:
    assert parse_target(path) == target


@pytest.mark.parametrize(
    "path", ["/x", "/v1", "/v2x", "/v2/", "/v2/models", "/v2/models/m/", "/v2/models/m/infer/x"]
)
def test_unknown_targets(path: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_target(path)
    assert caught.value.status == 404


def test_methods_are_checked() -> None:
    head = parse_head(b"PUT /v2/models/m/infer HTTP/1.1\r\n\r\n")
    with pytest.raises(RequestError) as caught:
        check_method(head, Target("infer", "m"))
    assert caught.value.status == 405 and caught.value.headers == {"Allow": "POST, OPTIONS"}


class Echo:
    """Answers with the body; ``/later`` after a while, ``/away`` is handed over."""

    def __init__(self) -> None:
        self.away: list[bytes] = []
        self.lost = asyncio.Event()

    def on_head(self, connection: Connection, head: Head) -> Reply | memoryview | None:
        if head.path == "/away":
            connection.hand_over(lambda fd, unread: self.away.append(unread))
            return None
        if head.content_length is not None:
            return memoryview(bytearray(head.content_length))
        return json_reply(head.path)

    def on_body(self, connection: Connection, head: Head, body: memoryview) -> Reply | None:
        if head.path == "/later":
            asyncio.get_running_loop().call_later(0.01, connection.reply, Reply(200, (body,)))
            return None
        return Reply(200, (body,))

    def on_lost(self, connection: Connection) -> None:
        self.lost.set()


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def talk(steps: Callable[[Client, Echo, Connection], Awaitable[None]], unread: bytes = b"") -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        handler = Echo()
        connection = Connection(handler, door=True, unread=unread)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        client = await asyncio.open_connection(sock=theirs)
        try:
            await asyncio.wait_for(steps(client, handler, connection), 20)
        finally:
            client[1].close()
            await asyncio.wait_for(handler.lost.wait(), 20)

    asyncio.run(run())


async def answer(client: Client) -> bytes:
    head = await client[0].readuntil(b"\r\n\r\n")
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    return await client[0].readexactly(length)


def post(path: str, body: bytes, extra: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_bodies_in_any_pieces(piece: int = 7) -> None:
    async def steps(client: Client, handler: Echo, connection: Connection) -> None:
        big = bytes(range(256)) * 400
        for path in ("/now", "/later"):
            data = post(path, b"") + post(path, b"hello") + post(path, big) + b"\r\nGET /x HTTP/1.1\r\n\r\n"
            for start in range(0, 200, piece):
                client[1].write(data[start : min(200, start + piece)])
                await asyncio.sleep(0)
            client[1].write(data[200:])
            assert [await answer(client) for _ in range(4)] == [b"", b"hello", big, b'"/x"']

    talk(steps)


def test_unread_bytes_come_first_and_go_along() -> None:
    async def steps(client: Client, handler: Echo, connection: Connection) -> None:
        client[1].write(b"lo" + b"GET /away HTTP/1.1\r\n\r\nrest")
        assert await answer(client) == b"hello"
        await handler.lost.wait()
        assert handler.away == [b"GET /away HTTP/1.1\r\n\r\nrest"]

    talk(steps, unread=post("/now", b"hello")[:-2])


def test_a_client_that_does_not_read_is_not_served_on() -> None:
    async def steps(client: Client, handler: Echo, connection: Connection) -> None:
        body = bytes(4 << 20)
        client[1].write(post("/now", body))
        client[1].write(b"GET /away HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.2)
        assert handler.away == [] and not connection.idle  # the answer is not sent: nothing moves on
        assert await answer(client) == body
        await handler.lost.wait()
        assert len(handler.away) == 1

    talk(steps)


@pytest.mark.parametrize(("size", "status"), [(MAX_HEAD, b"200"), (MAX_HEAD + 1, b"431")])
def test_a_head_may_have_16_kb_however_it_arrives(size: int, status: bytes) -> None:
    head = b"GET /x HTTP/1.1\r\nX: " + b"x" * (size - 24) + b"\r\n\r\n"
    assert len(head) == size

    async def whole(client: Client, handler: Echo, connection: Connection) -> None:
        client[1].write(head)
        assert (await client[0].readuntil(b"\r\n")).split()[1] == status

    async def in_two(client: Client, handler: Echo, connection: Connection) -> None:
        client[1].write(head[:-1])
        await asyncio.sleep(0.05)
        client[1].write(head[-1:])
        assert (await client[0].readuntil(b"\r\n")).split()[1] == status

    talk(whole)
    talk(in_two)


def test_expect_100_continue() -> None:
    async def steps(client: Client, handler: Echo, connection: Connection) -> None:
        request = post("/now", b"hello", "Expect: 100-continue\r\n")
        client[1].write(request[:-5])
        assert await client[0].readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client[1].write(b"hello")
        assert await answer(client) == b"hello"

    talk(steps)


def test_deadlines() -> None:
    async def steps(client: Client, handler: Echo, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        client[1].write(post("/now", b"hello")[:-1])
        await asyncio.sleep(0.05)
        connection.expire(loop.time() + 29)
        connection.expire(loop.time() + 31)
        assert b"408" in await client[0].readline()
        connection.expire(loop.time() + 40)
        await client[0].read()
        await handler.lost.wait()

    talk(steps)


def test_http_1_0_is_closed_after_the_answer() -> None:
    async def steps(client: Client, handler: Echo, connection: Connection) -> None:
        client[1].write(b"GET /x HTTP/1.0\r\n\r\n")
        assert (await client[0].read()).endswith(b'Connection: close\r\n\r\n"/x"')

    talk(steps)


@pytest.mark.parametrize(
    ("head", "goes_on"),
    [
        (b"GET /v2 HTTP/1.1\r\n\r\n", True),
        (b"GET /v2 HTTP/1.1\r\nConnection: close\r\n\r\n", False),
        (b"POST /v2 HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"POST /v2 HTTP/1.1\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\n", False),
        (b"GET /v2 HTTP/1.0\r\n\r\n", False),
        (b"GET /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_who_wants_the_connection_closed_gets_it_closed(head: bytes, goes_on: bool) -> None:
    assert parse_head(head).keep_alive is goes_on


def test_a_client_that_is_gone_already_needs_no_answer() -> None:
    """Its worker died, and it did not wait to hear of it."""

    async def run() -> None:
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        handler = Echo()
        connections = Connections(handler)
        for reply in (None, RequestError(503, "its worker is gone").reply()):
            with socket.create_server(("127.0.0.1", 0)) as server:
                client = socket.create_connection(server.getsockname())
                ours, _ = server.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            connections.dismiss(ours, reply)
        while len(connections):
            await asyncio.sleep(0.005)
        await connections.close()
        assert not complaints

    asyncio.run(run())


def test_a_connection_is_busy_before_anything_is_read_from_it() -> None:
    """A process that is killed in between has taken a request of which nobody else knows."""

    async def run() -> None:
        states = bytearray([IDLE])
        connection = Connection(Echo(), door=True, seat=Seat(states, 0))
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        with theirs:
            await asyncio.sleep(0)
            assert connection.idle and states[0] == IDLE
            request = b"GET /a HTTP/1.1\r\n\r\n"
            connection.get_buffer(-1)[: len(request)] = request
            assert states[0] == BUSY
            connection.buffer_updated(len(request))
            assert states[0] == IDLE and theirs.recv(1000).endswith(b'"/a"')
        transport.abort()
        await asyncio.sleep(0)

    asyncio.run(run())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, new_event_loop])
@pytest.mark.parametrize("size", [0, 100, 16 * 1024, 1 << 20])
def test_a_connection_is_idle_again_when_it_has_answered(
    size: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Some event loops ask for memory once more when a body filled what they had."""

    async def run() -> None:
        states = bytearray([IDLE])
        connection = Connection(Echo(), door=True, seat=Seat(states, 0))
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        for _ in range(2):
            writer.write(b"POST /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
            await asyncio.sleep(0.02)
            writer.write(bytes(size))
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(size) == bytes(size)
            await asyncio.sleep(0.02)
            assert states[0] == IDLE
        writer.close()
        transport.abort()
        await asyncio.sleep(0.01)

    loop = new_loop()
    loop.run_until_complete(run())
    loop.close()
