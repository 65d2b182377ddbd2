"""Both clients against a scripted service: what they answer, when they ask again, and what they never do."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.serving.client import (
    AsyncClient,
    BadRequest,
    Client,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotFound,
    ModelUnavailable,
    ServiceUnreachable,
)
from tests.unit.serving.client.scripted import Peer, double, each, service

X = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}


class Blocking:
    """The asyncio client, called as the other one."""

    def __init__(self, address: str, retry_s: float = 0.0) -> None:
        self._client = AsyncClient(address, retry_s)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **named: self._loop.run_until_complete(method(*args, **named))

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


pytestmark = pytest.mark.parametrize("make", [Client, Blocking])
Make = Callable[..., Any]


@pytest.mark.parametrize("tcp", [False, True])
def test_calls_use_one_connection(make: Make, tmp_path: Path, tcp: bool) -> None:
    def ready(peer: Peer) -> None:
        assert peer.request()[0] == "GET /v2/models/m%2F1/ready HTTP/1.1"
        peer.answer(b'{"ready":true}')

    with service(tmp_path, each([double, ready, double]), tcp=tcp) as address, make(address) as client:
        for answer in (client.infer("m", X), client.ready("m/1"), client.infer("m", X)):
            assert answer is True or np.array_equal(answer["y"], X["x"] * 2)


def test_a_large_answer_is_aligned_and_its_own(make: Make, tmp_path: Path) -> None:
    big = {"x": np.arange(150_000, dtype=np.float32).reshape(1, -1)}
    with service(tmp_path, each([double, double])) as address, make(address) as client:
        first = client.infer("m", big)["y"]
        second = client.infer("m", {"x": -big["x"]})["y"]
    assert np.array_equal(first, big["x"] * 2) and np.array_equal(second, big["x"] * -2)
    assert first.flags.aligned and first.ctypes.data % 64 == 0


def test_small_answers_do_not_share_memory(make: Make, tmp_path: Path) -> None:
    with service(tmp_path, each([double, double])) as address, make(address) as client:
        first = client.infer("m", X)["y"]
        client.infer("m", {"x": -X["x"]})
    assert np.array_equal(first, X["x"] * 2)


def test_the_answer_may_come_in_pieces(make: Make, tmp_path: Path) -> None:
    def in_pieces(peer: Peer) -> None:
        peer.request()
        text = b'{"outputs":[{"name":"y","datatype":"INT8","shape":[2],"parameters":{"binary_data_size":2}}]}'
        lines = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text) + 2}\r\ninference-header-content-length: {len(text)}"
        for byte in lines.encode() + b"\r\n\r\n" + text + b"\x01\xff":
            peer.sock.sendall(bytes([byte]))
            time.sleep(0.0001)

    with service(tmp_path, in_pieces) as address, make(address) as client:
        assert client.infer("m", X)["y"].tolist() == [1, -1]


@pytest.mark.parametrize("tcp", [False, True])
def test_a_connection_that_ended_between_requests_is_replaced(make: Make, tmp_path: Path, tcp: bool) -> None:
    ended = threading.Event()

    def once(peer: Peer) -> None:
        double(peer)
        peer.sock.close()
        ended.set()

    with service(tmp_path, once, double, tcp=tcp) as address, make(address) as client:
        client.infer("m", X)
        assert ended.wait(10)
        assert np.array_equal(client.infer("m", X)["y"], X["x"] * 2)


def test_a_connection_of_which_the_service_ended_its_half_is_replaced(make: Make, tmp_path: Path) -> None:
    """As servers do that let a last answer arrive: they still read, and throw away."""
    ended = threading.Event()

    def half(peer: Peer) -> None:
        double(peer)
        peer.sock.shutdown(socket.SHUT_WR)
        ended.set()
        assert peer.sock.recv(1) == b""

    with service(tmp_path, half, double) as address, make(address) as client:
        client.infer("m", X)
        assert ended.wait(10)
        assert np.array_equal(client.infer("m", X)["y"], X["x"] * 2)


def test_a_request_that_was_not_read_to_its_end_is_sent_again(make: Make, tmp_path: Path) -> None:
    def hang_up(peer: Peer) -> None:
        double(peer)
        peer.sock.recv(100)  # of much more

    big = {"x": np.ones((1, 1 << 20), np.float32)}
    with service(tmp_path, hang_up, double) as address, make(address) as client:
        client.infer("m", X)
        assert client.infer("m", big)["y"].sum() == 2 << 20


def test_a_request_that_may_have_run_is_not_sent_again(make: Make, tmp_path: Path) -> None:
    asked = []

    def die(peer: Peer) -> None:
        double(peer)
        asked.append(peer.request())

    with service(tmp_path, die, double) as address, make(address) as client:
        client.infer("m", X)
        with pytest.raises(ConnectionLost, match="may have run"):
            client.infer("m", X)
        assert len(asked) == 1
        client.infer("m", X)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("400 Bad Request", BadRequest),
        ("404 Not Found", ModelNotFound),
        ("413 Content Too Large", BadRequest),
        ("500 Internal Server Error", InferenceFailed),
        ("503 Service Unavailable", ModelUnavailable),
        ("504 Gateway Timeout", DeadlineExceeded),
    ],
)
def test_errors_have_names(make: Make, tmp_path: Path, status: str, error: type[ClientError]) -> None:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.answer(b'{"error":"because"}', status, "Retry-After: 3")

    with service(tmp_path, each([refuse, double])) as address, make(address) as client:
        with pytest.raises(error, match="because") as caught:
            client.infer("m", X)
        if isinstance(caught.value, ModelUnavailable):
            assert caught.value.retry_after == 3
        client.infer("m", X)  # over the same connection


def test_an_answer_before_the_end_of_the_request_is_heard(make: Make, tmp_path: Path) -> None:
    def too_large(peer: Peer) -> None:
        peer.sock.recv(100)
        peer.answer(b'{"error":"too large"}', "413 Content Too Large", "Connection: close")

    big = {"x": np.ones((1, 1 << 22), np.float32)}
    with service(tmp_path, too_large) as address, make(address) as client:  # noqa: SIM117
        with pytest.raises(BadRequest, match="too large"):
            client.infer("m", big)


def test_unavailable_models_are_asked_again_only_when_told_to(make: Make, tmp_path: Path) -> None:
    def unavailable(peer: Peer) -> None:
        peer.request()
        peer.answer(b'{"error":"restarting"}', "503 Service Unavailable", "Retry-After: 0")

    with (
        service(tmp_path, each([unavailable, unavailable, double])) as address,
        make(address, 10.0) as client,
    ):
        assert np.array_equal(client.infer("m", X)["y"], X["x"] * 2)


def test_an_answer_that_does_not_come_ends_the_wait(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.serving.client.sync.GRACE_S", 0.1)
    monkeypatch.setattr("agent.serving.client.aio.GRACE_S", 0.1)

    def silent(peer: Peer) -> None:
        assert peer.request()[1]["parameters"]["timeout"] == 100_000
        peer.sock.recv(1)

    with service(tmp_path, silent, double) as address, make(address) as client:
        with pytest.raises(DeadlineExceeded, match="no answer within"):
            client.infer("m", X, timeout_s=0.1)
        client.infer("m", X)


def test_nobody_there(make: Make, tmp_path: Path) -> None:
    with make(tmp_path / "http.sock") as client:
        with pytest.raises(ServiceUnreachable, match="overlaid status"):
            client.infer("m", X)
        with pytest.raises(ServiceUnreachable, match="shared_memory = true"):
            client.shared((2, 2))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nInference-Header-Content-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"220 smtp" + b" ready" * 20_000,
    ],
)
def test_what_is_no_answer_of_the_protocol_is_named(make: Make, tmp_path: Path, answer: bytes) -> None:
    def other(peer: Peer) -> None:
        peer.request()
        peer.sock.sendall(answer)

    with service(tmp_path, other) as address, make(address) as client:  # noqa: SIM117
        with pytest.raises(InferenceFailed, match="is the address the service's"):
            client.infer("m", X)


def test_addresses(make: Make) -> None:
    for address in ("http://127.0.0.1:8000/v2", "http://:1", "http://127.0.0.1:x"):
        with pytest.raises(BadRequest, match="is no address"):
            make(address)
    with make("http://127.0.0.1:9") as client, pytest.raises(BadRequest, match="Unix socket"):
        client.shared((2, 2))
