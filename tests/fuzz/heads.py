"""Streams of requests, some damaged, in any pieces: what is answered does not depend on how the bytes arrive.

``python -m tests.fuzz.heads --seconds 600 --seed 1`` runs as long as asked and ends at the first finding with what
makes it again. Each round depends on its seed alone. The handlers are a front door and two workers between which a
connection moves, as in the daemon; answers are given at once or later, to clients that read at once or later.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from agent.serving.http.connection import Connection
from agent.serving.http.messages import MAX_HEAD, Head, Reply, RequestError, json_reply, parse_head

MOST = 40_000  # bytes of a body
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # only for clients whose body has not arrived
PLACES = ("door", "a", "b")
LINES = (
    b"Connection: close", b"Connection: keep-alive", b"connection:Upgrade", b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Content-Length: 5", b"Content-Length: -1",
    b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: " + b"9" * 30, b"Content-Length: 0x5",
    b"Content-Length : 5", b" folded: 1", b"no colon", b": no name", b"X:", b"X: \xff\xfe", b"X: a\0b", b"X: a\rb",
    b"X: a\nContent-Length: 5", b"Content-Length: 5\n", b"Host: h\r\n", b"Host: h\n", b"X: " + b"x" * 3000,
    b"X: " + b"x" * (MAX_HEAD + 10),
)  # fmt: skip
STARTS = (
    b"GET", b"GET /door", b"GET  /door HTTP/1.1", b"GET /door HTTP/9.9", b"GET /door HTTP/1.1 ", b"PRI * HTTP/2.0",
    b"CONNECT h:1 HTTP/1.1", b"\x16\x03\x01\x02\x00\x01", b"GET http://h/door HTTP/1.1", b"GET /\xff HTTP/1.1",
    b"get /door HTTP/1.1", b"GET //door HTTP/1.1", b"GET /door?x=/a HTTP/1.1", b"GET /a#b HTTP/1.1", b"",
)  # fmt: skip
TOKENS = (b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b":", b"\0", b"\xff", b"GET /a HTTP/1.1\r\n\r\n")


def one_round(seed: int) -> Counter[int]:
    """The statuses of the answers to this seed's stream, by a client that sends it whole and another one that does not;
    AssertionError when they are told different things, and any other exception, are findings."""
    rng = random.Random(seed)
    stream = damaged_stream(rng)
    for head in stream.split(b"\r\n\r\n")[:-1]:
        with contextlib.suppress(RequestError):
            check_head(head.lstrip(b"\r\n")[:MAX_HEAD].rstrip(b"\r\n") + b"\r\n\r\n")
    ends = rng.random() < 0.5
    whole = asyncio.run(_played(random.Random(seed), [stream] if stream else [], ends, hurried=True))
    for _ in range(3):
        other = asyncio.run(_played(rng, _pieces(rng, stream), ends, hurried=False))
        assert other == whole, _difference(other, whole, stream)
    return Counter(int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", whole))


def damaged_stream(rng: random.Random) -> bytes:
    """Some requests, not always damaged."""
    stream = b"".join(_request(rng) for _ in range(rng.choice((1, 2, 3, 8))))
    for _ in range(rng.choice((1, 1, 2, 4)) if rng.random() < 0.6 else 0):
        stream = _damage(rng, stream)
    return stream


def _difference(other: bytes, whole: bytes, stream: bytes) -> str:
    pairs = zip(other, whole, strict=False)
    at = next((at for at, (one, two) in enumerate(pairs) if one != two), min(len(other), len(whole)))
    places = slice(max(0, at - 200), at + 200)
    return f"in pieces {other[places]!r}\nwhole {whole[places]!r}\nstream {stream[:2000]!r}"


def check_head(data: bytes) -> Head:
    """``parse_head``, held against the grammar (RFC 9112, 2 to 6) in its strictest reading."""
    head = parse_head(data)
    start, *lines = data[:-4].split(b"\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data), f"a line end that is none: {data!r}"
    method, target, version = start.split()  # the parser takes several spaces
    assert head.method.encode() == method and version in (b"HTTP/1.1", b"HTTP/1.0"), data
    assert head.path.encode("latin-1") in target, data
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        assert colon and name == name.strip(), f"no header: {line!r}"
        key, text = name.lower(), value.lstrip(" \t")  # the parser keeps what stands at the end
        found[key] = f"{found[key]}, {text}" if key in found else text
    assert dict(head.headers) == found, data
    assert head.content_length is None or (head.content_length >= 0 and not head.chunked), data
    return head


def _request(rng: random.Random) -> bytes:
    body = rng.randbytes(rng.choice((0, 0, 1, 5, 100, 3000, MAX_HEAD + 5, MOST)))
    path = f"/{rng.choice((*PLACES, *PLACES, 'x'))}{rng.choice(('', '/later'))}"
    start = f"{rng.choice(('GET', 'POST', 'POST', 'HEAD', 'PUT'))} {path} HTTP/1.1".encode()
    lines = [b"Host: h"]
    if body or rng.random() < 0.3:
        lines.append(b"Content-Length: %d" % len(body))
    if rng.random() < 0.1:
        lines.append(rng.choice(LINES[:6]))
    if rng.random() < 0.05:
        lines.append(b"X: " + b"x" * (MAX_HEAD - len(start) - sum(map(len, lines)) - rng.randint(0, 20)))
    if rng.random() < 0.2:
        lines.insert(rng.randint(0, len(lines)), rng.choice(LINES))
    if rng.random() < 0.05:
        start = rng.choice(STARTS)
    return rng.choice((b"", b"", b"\r\n", b"\r\n\r\n")) + b"\r\n".join((start, *lines)) + b"\r\n\r\n" + body


def _damage(rng: random.Random, stream: bytes) -> bytes:
    at, end = sorted((rng.randint(0, len(stream)), rng.randint(0, len(stream))))
    if rng.random() < 0.7:  # near where heads begin and end
        at = max(0, stream.find(b"\r\n", at) + rng.randint(-2, 4))
    change: Callable[[], bytes] = rng.choice(
        (
            lambda: stream[:at],
            lambda: stream[:at] + stream[end:],
            lambda: stream[:end] + stream[at:],
            lambda: stream[:at] + rng.choice(TOKENS) + stream[at:],
            lambda: stream[:at] + bytes([rng.randrange(256)]) + stream[at + 1 :],
        )
    )
    return change()


def _pieces(rng: random.Random, stream: bytes) -> list[bytes]:
    """Of single bytes, where the lines are, or of any size."""
    longest = rng.choice((1, 2, 7, 100, 5000, 20_000))
    pieces: list[bytes] = []
    at = 0
    while at < len(stream):
        size = rng.randint(1, longest) if len(pieces) < 2000 else len(stream)
        pieces.append(stream[at : at + size])
        at += size
    return pieces


@dataclass(slots=True)
class Wire:
    """A transport to a client that takes what it is sent when ``drain`` says so."""

    hurried: bool
    rng: random.Random
    sent: bytearray = field(default_factory=bytearray)
    unsent: int = 0
    paused: bool = False
    closing: bool = False
    ended: bool = False
    protocol: Connection | None = None

    def fileno(self) -> int:
        return 0

    def get_extra_info(self, _: str) -> Wire:
        return self

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | memoryview) -> None:
        assert not self.ended and not self.closing, "written after the end"
        self.sent += data
        assert self.protocol is not None
        if not self.hurried and not self.unsent and len(data) and self.rng.random() < 0.5:
            self.unsent = len(data)
            self.protocol.pause_writing()

    def drain(self) -> None:
        assert self.protocol is not None
        self.unsent = 0
        self.protocol.resume_writing()

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        assert not self.closing
        self.paused = False


@dataclass(slots=True)
class Place:
    """Who has the connection; ``away``: where it goes next, with the bytes that were read."""

    name: str
    waiting: tuple[Connection, Reply] | None = None
    away: tuple[str, bytes] | None = None

    def on_head(self, connection: Connection, head: Head) -> Reply | memoryview | None:
        place, _, _ = head.path.strip("/").partition("/")
        if self.name == "door" and place not in PLACES:
            raise RequestError(404, "unknown")
        if place != self.name:
            aim = place if self.name == "door" else "door"
            assert connection.hand_over(lambda _, unread: setattr(self, "away", (aim, unread)))
            return None
        if head.chunked:
            raise RequestError(501, "chunked")
        if head.content_length is not None and head.content_length > MOST:
            raise RequestError(413, "too large")
        return memoryview(bytearray(head.content_length or 0))

    def on_body(self, connection: Connection, head: Head, body: memoryview) -> Reply | None:
        told: dict[str, Any] = {"at": self.name, "method": head.method, "headers": dict(head.headers)}
        reply = json_reply({**told, "path": head.path, "body": [len(body), zlib.crc32(body)]})
        if not head.path.endswith("/later"):
            return reply
        self.waiting = connection, reply
        return None

    def on_lost(self, connection: Connection) -> None:
        """A wire is not lost."""


async def _played(rng: random.Random, pieces: list[bytes], ends: bool, hurried: bool) -> bytes:
    """What the client is sent. ``ends``: it ends its side after the last byte."""
    rest = list(reversed(pieces))
    wire, place, connection = _connect("door", b"", rng, hurried, bytearray())
    settled = False
    while not settled:
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        if place.away is not None:
            name, unread = place.away
            wire, place, connection = _connect(name, unread, rng, hurried, wire.sent)
        moves: list[Callable[[], None]] = []
        if rest and not wire.paused and not wire.closing:
            moves.append(partial(_feed, connection, rest))
        if wire.unsent and not wire.closing:
            moves.append(wire.drain)
        if place.waiting is not None:
            moves.append(partial(_answer, place))
        if moves:
            rng.choice(moves)()
        else:
            await asyncio.sleep(0)  # a connection looks at what it came with in the loop's next turn
            settled = (
                place.away is None
                and place.waiting is None
                and not wire.unsent
                and (not rest or wire.closing)
            )
    if ends and not wire.closing and not wire.paused and not wire.ended:
        connection.eof_received()
    return bytes(wire.sent).replace(CONTINUE, b"")


def _connect(
    name: str, unread: bytes, rng: random.Random, hurried: bool, sent: bytearray
) -> tuple[Wire, Place, Connection]:
    wire, place = Wire(hurried, rng, sent), Place(name)
    wire.protocol = Connection(place, name == "door", unread)
    wire.protocol.connection_made(cast(asyncio.BaseTransport, wire))
    return wire, place, wire.protocol


def _feed(connection: Connection, rest: list[bytes]) -> None:
    piece = rest.pop()
    buffer = connection.get_buffer(-1)
    size = min(len(piece), len(buffer))
    assert size, "no room for what arrives"
    buffer[:size] = piece[:size]
    if piece[size:]:
        rest.append(piece[size:])
    connection.buffer_updated(size)


def _answer(place: Place) -> None:
    assert place.waiting is not None
    (connection, reply), place.waiting = place.waiting, None
    connection.reply(reply)


def main() -> int:
    """Run rounds until the time is over; 1 after a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next ones follow")
    arguments = parser.parse_args()
    end, seed = time.monotonic() + arguments.seconds, arguments.seed
    statuses: Counter[int] = Counter()
    while time.monotonic() < end:
        try:
            statuses += one_round(seed)
        except Exception:
            traceback.print_exc()
            print(f"finding: --seed {seed} --seconds 0.001")
            return 1
        seed += 1
    print(f"{seed - arguments.seed} rounds: {json.dumps(statuses)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
