"""HTTP/1.1 heads: what a request's head says, and the bytes of a response. Parsing is httptools' (llhttp)."""

from __future__ import annotations

import contextlib
import functools
import http
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools

from agent.errors import OverlaidError

MAX_HEAD = 16 * 1024
KNOWN_HEADS = 64  # remembered: a client's requests begin with the same bytes again and again
VERSIONS = ("1.0", "1.1")
JSON = "application/json"
CONTENT_TYPES = ("", JSON, "application/octet-stream")
RETRY = {"Retry-After": "1"}


class RequestError(OverlaidError):
    """A request that is answered with an error: HTTP status, text for {"error": …}, headers such as Allow."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}

    def reply(self) -> Reply:
        """The response that tells the client."""
        return json_reply({"error": str(self)}, self.status, self.headers)


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head. ``path`` is without query, percent-encoded; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    keep_alive: bool
    content_length: int | None

    @property
    def chunked(self) -> bool:
        return "transfer-encoding" in self.headers

    @property
    def has_body(self) -> bool:
        """RFC 9112, 6.3: without a length and not chunked there is none."""
        return self.chunked or bool(self.content_length)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; ``parts`` are its body's pieces, sent one after another."""

    status: int
    parts: Sequence[bytes | memoryview] = ()
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self, keep_alive: bool) -> bytes:
        """Status line and headers, ready to send."""
        length = sum(map(len, self.parts))
        text = f"{_status_line(self.status)}\r\nContent-Length: {length}\r\n"
        if length:
            text += f"Content-Type: {self.content_type}\r\n"
        for name, value in self.headers.items():
            text += f"{name}: {value}\r\n"
        return (text + ("\r\n" if keep_alive else "Connection: close\r\n\r\n")).encode("latin-1")


def check_content_type(head: Head) -> None:
    """RequestError 415 for a body of another kind than this protocol's."""
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise RequestError(415, f"Content-Type {kind[:64]!r} is not supported; send application/json")


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A response with a JSON body."""
    return Reply(status, (json.dumps(value, separators=(",", ":")).encode(),), headers=headers or {})


class _Collector:
    """Callbacks of the parser; a header given twice becomes one, comma-separated (RFC 9110, 5.3)."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.complete = True


@functools.lru_cache(KNOWN_HEADS)
def parse_head(data: bytes) -> Head:
    """Parse a head up to and with its empty line; RequestError 400 when it is none."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        # HTTP/1.1 goes on when a server ignores an upgrade.
        with contextlib.suppress(httptools.HttpParserUpgrade):
            parser.feed_data(data)
        if not collector.complete:
            raise RequestError(400, "not an HTTP/1.1 request: the head is incomplete")
        version = parser.get_http_version()
        if version not in VERSIONS:  # the parser still takes HTTP/0.9, which has no heads
            raise RequestError(400, f"not an HTTP/1.1 request but one of HTTP/{version}")
        path = httptools.parse_url(collector.url).path or b"/"
        length = collector.headers.get("content-length")
        return Head(
            method=parser.get_method().decode("latin-1"),
            path=path.decode("latin-1"),
            headers=collector.headers,
            keep_alive=_keeps_alive(version, collector.headers.get("connection", "")),
            content_length=None if length is None else int(length),
        )
    except (httptools.HttpParserError, ValueError) as error:
        raise RequestError(400, f"not an HTTP/1.1 request: {error}") from error


def _keeps_alive(version: str, connection: str) -> bool:
    """RFC 9112, 9.3. (The parser forgets its own answer once it has seen the end of a request without a body.)"""
    options = {option.strip().lower() for option in connection.split(",")}
    return "close" not in options and (version == "1.1" or "keep-alive" in options)


@functools.cache
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"
