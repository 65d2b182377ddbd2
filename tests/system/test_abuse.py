"""Clients that misbehave, in numbers: each gets a named error or nothing, nobody else notices, and nothing is left."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.system.bare_daemon import ROOT, BareDaemon, bare_daemon
from tests.system.crashing import make_spin, make_wide
from tests.system.footprint import Footprint, footprints
from tests.system.serving_models import make_spec

MEMORY_MB = 256
SLACK_MB = 12.0  # what an allocator keeps of what was freed
FOREVER = 1 << 40
DOUBLE = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@dataclass
class Bystander:
    """Asks ``triple`` all the time: on one connection through the front door, and on new ones to the model's socket."""

    daemon: BareDaemon
    answers: int = 0
    surprises: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """When it has asked once more."""
        self.over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _ask(self) -> None:
        kept = connect(self.daemon.port)
        try:
            while not self.over.wait(0.01) or not self.answers:
                with connect(self.daemon.own_socket("triple")) as fresh:
                    for sock in (kept, fresh):
                        sock.sendall(infer("triple"))
                        status, _, answer = receive(sock)
                        if (status, answer.get("outputs", [{}])[0].get("data")) != (200, [3, 6, 9, 12]):
                            self.surprises.append(f"{status}: {answer}")
                        self.answers += 1
        except (OSError, http.client.HTTPException) as error:
            self.surprises.append(repr(error))
        finally:
            kept.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareDaemon]:
    root = tmp_path_factory.mktemp("abuse")
    models = [
        make_spec(root, "double", 2.0),
        make_spec(root, "triple", 3.0),
        make_spin(root),
        make_wide(root),
    ]
    with bare_daemon(root, *(replace(spec, memory_mb=MEMORY_MB) for spec in models)) as it:
        # Once, so that what is made at the first request, or for the first large answer, is there.
        for model, body in (("double", DOUBLE), ("triple", DOUBLE), ("spin", count(1))):
            with connect(it.port) as sock:
                sock.sendall(infer(model, body))
                assert receive(sock)[0] == 200
        ask_without_reading(it)
        time.sleep(0.3)
        yield it


@pytest.fixture(autouse=True)
def unharmed(daemon: BareDaemon) -> Iterator[None]:
    """Another model's clients notice nothing, and afterwards there is no more of anything than before."""
    before = footprints(daemon.pid)
    bystander = Bystander(daemon)
    yield
    bystander.stop()
    assert not bystander.surprises and bystander.answers
    until(lambda: grown(before, footprints(daemon.pid)))


def grown(before: Any, after: Any) -> str:
    """What there is more of; empty when nothing is."""
    if before.keys() != after.keys():
        return f"processes {sorted(before)}, then {sorted(after)}"

    def more(old: Footprint, new: Footprint) -> bool:
        return (
            new.descriptors > old.descriptors
            or new.threads > old.threads + (new.pid != old.pid)
            or new.private_mb > old.private_mb + SLACK_MB
        )

    return "; ".join(
        f"{name}: {before[name]} → {after[name]}" for name in before if more(before[name], after[name])
    )


def until(trouble: Callable[[], str], seconds: float = 20.0) -> None:
    """Wait until there is no trouble any more."""
    deadline = time.monotonic() + seconds
    while text := trouble():
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def trouble(address: int | Path, model: str, body: Any) -> str:
    """Why a new connection gets no answer now, which must be a refusal that says when to come back, or nothing."""
    try:
        with connect(address) as sock:
            sock.sendall(infer(model, body))
            status, headers, answer = receive(sock)
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    assert status == 200 or (status, headers["Retry-After"]) == (503, "1"), answer
    return "" if status == 200 else str(answer["error"])


def connect(address: int | Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
    sock.settimeout(20)
    sock.connect(str(address) if isinstance(address, Path) else ("127.0.0.1", address))
    return sock


def infer(model: str, body: Any = DOUBLE, *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


def count(value: int, **parameters: Any) -> dict[str, Any]:
    """A request to ``spin`` or ``wide``."""
    return {
        "inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [value]}],
        "parameters": parameters,
    }


def receive(sock: socket.socket) -> tuple[int, http.client.HTTPMessage, Any]:
    response = http.client.HTTPResponse(sock, method="POST")
    response.begin()
    body = response.read()
    return response.status, response.headers, json.loads(body) if body else None


def everything(sock: socket.socket) -> bytes:
    """Until the other side closes, one way or the other."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            answer += piece
    return answer


def places(daemon: BareDaemon, model: str) -> tuple[int | Path, ...]:
    return daemon.port, daemon.own_socket(model)


def test_ten_thousand_connections(daemon: BareDaemon) -> None:
    sockets = [str(daemon.own_socket("double")), str(daemon.run / "http.sock")]
    command = [sys.executable, "-m", "tests.system.crowd", "10000", str(daemon.port), *sockets]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdin is not None and crowd.stdout is not None
        told = json.loads(crowd.stdout.readline())
        assert told["opened"] >= 8000, told
        during = footprints(daemon.pid)
        assert during["daemon"].descriptors < 2000 and during["double"].descriptors < 1000
        for address in places(daemon, "double"):  # newcomers get through while the crowd holds what it has
            until(lambda address=address: trouble(address, "double", DOUBLE))  # type: ignore[misc]
    assert crowd.returncode == 0


def test_slow_requests_in_numbers(daemon: BareDaemon) -> None:
    heads = [b"POST /v2/models/double/infer HTTP/1.1\r\nX: ", b"G", infer("double")[:-20], b"\r\n"]
    slow = [connect(address) for address in places(daemon, "double") * 75]
    for number, sock in enumerate(slow):
        sock.sendall(heads[number % len(heads)])
    for _ in range(20):
        for sock in slow:
            with contextlib.suppress(OSError):
                sock.send(b"1")
        time.sleep(0.05)
        with connect(daemon.port) as sock:
            sock.sendall(infer("double"))
            assert receive(sock)[0] == 200
    closed = []
    for sock in slow:
        with sock, contextlib.suppress(TimeoutError):
            sock.settimeout(0.001)
            closed.append(everything(sock))
    assert all(answer == b"" or answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 40")) for answer in closed)


def test_connections_that_end_anywhere(daemon: BareDaemon) -> None:
    """Half-closed after every byte of a request; then gone without a word."""
    request = infer("double")
    for address in places(daemon, "double"):
        for end in range(0, len(request) + 1, 7):
            with connect(address) as sock:
                sock.sendall(request[:end])
                sock.shutdown(socket.SHUT_WR)
                answer = everything(sock)
            body = request.index(b"\r\n\r\n") + 4
            if end < body:
                assert answer == b""
            elif end < len(request):
                assert answer.startswith(b"HTTP/1.1 400 ") and b"ended after" in answer
            else:
                assert answer.startswith(b"HTTP/1.1 200 ")
            with connect(address) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                sock.sendall(request[:end])


def test_clients_that_do_not_read_what_they_asked_for(daemon: BareDaemon) -> None:
    for _ in range(5):
        ask_without_reading(daemon)


def ask_without_reading(daemon: BareDaemon) -> None:
    """Four clients want 24 MB each, read nothing of it, and go; meanwhile the model answers others."""
    hungry = [connect(address) for address in places(daemon, "wide") * 2]
    for sock in hungry:
        sock.sendall(infer("wide", count(2 << 20, binary_data_output=True)) * 3)
    with connect(daemon.port) as sock:
        sock.sendall(infer("wide", count(3)))
        assert receive(sock)[2]["outputs"][0]["data"] == [0, 0, 0]
    for sock in hungry:
        sock.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\n" + b"X: y\r\n" * 5000, b"431"),
        (b"GET /v2 HTTP/1.1\r\nX: " + b"y" * (1 << 20), b"431"),
        (b"GET /" + b"x" * (1 << 20), b"431"),
        (b"G" * (1 << 20), b"431"),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST /v2/models/double/infer HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", b"400"),
        (b"POST /v2/models/double/infer HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n", b"413"),
        (b"\0" * 100 + b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n", b"400"),
    ],
)
def test_header_bombs(daemon: BareDaemon, head: bytes, status: bytes) -> None:
    for address in places(daemon, "double"):
        with connect(address) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(head)
            answer = everything(sock)
            assert answer.split()[1:2] == [status] and b'{"error":' in answer


def test_pipelined_requests_for_everybody_in_any_pieces(daemon: BareDaemon) -> None:
    """A connection that goes from model to model and back to the daemon, with wrong requests among the right ones."""
    rng = random.Random(5)
    kinds: list[tuple[bytes, int, Callable[[Any], bool]]] = [
        (infer("double"), 200, lambda told: told["outputs"][0]["data"] == [2, 4, 6, 8]),
        (infer("triple"), 200, lambda told: told["outputs"][0]["data"] == [3, 6, 9, 12]),
        (infer("spin", count(7)), 200, lambda told: told["outputs"][0]["data"] == [7]),
        (b"GET /v2/models/double/ready HTTP/1.1\r\n\r\n", 200, lambda told: told["name"] == "double"),
        (b"GET /v2/health/live HTTP/1.1\r\n\r\n", 200, lambda told: told == {"live": True}),
        (infer("double", {"inputs": []}), 400, lambda told: "'x'" in told["error"]),
        (b"GET /v2/models/triple/infer HTTP/1.1\r\n\r\n", 405, lambda told: "POST" in told["error"]),
        (b"GET /v2/models/nobody HTTP/1.1\r\n\r\n", 404, lambda told: "nobody" in told["error"]),
    ]
    asked = [rng.choice(kinds) for _ in range(400)]
    stream = b"".join(request for request, _, _ in asked)

    def send(sock: socket.socket) -> None:
        at = 0
        while at < len(stream):
            size = rng.choice((1, 20, 300, 5000))
            sock.sendall(stream[at : at + size])
            at += size

    with connect(daemon.port) as sock:
        sender = threading.Thread(target=send, args=(sock,))
        sender.start()
        reader = sock.makefile("rb")
        for number, (request, status, good) in enumerate(asked):
            told = next_answer(reader)
            assert told[0] == status and good(told[1]), (number, request, told)
        sender.join()
        reader.close()


def next_answer(reader: Any) -> tuple[int, Any]:
    """Of a stream of answers."""
    status, length = int(reader.readline().split()[1]), 0
    while (line := reader.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, json.loads(reader.read(length))


def tensor(**change: Any) -> dict[str, Any]:
    return {"inputs": [{**DOUBLE["inputs"][0], **change}]}


BAD_BODIES: dict[str, tuple[Any, tuple[str, ...], int, str]] = {
    "negative": (tensor(shape=[-1, 4]), (), 400, "shape"),
    "both negative": (tensor(shape=[-1, -4]), (), 400, "shape"),
    "no rows": (tensor(shape=[0, 4], data=[]), (), 400, "shape"),
    "2**64 rows": (tensor(shape=[1 << 64, 4]), (), 400, "shape"),
    "2**62 rows": (tensor(shape=[1 << 62, 4]), (), 400, "shape"),
    "product wraps round to 4": (tensor(shape=[(1 << 62) + 1, 4]), (), 400, "shape"),
    "many axes": (tensor(shape=[1] * 100_000), (), 400, "10000 values"),
    "no number": (tensor(shape=[True, 4.5]), (), 400, "shape"),
    "binary size negative": (tensor(parameters={"binary_data_size": -16}), (), 400, "binary_data_size"),
    "binary size huge": (tensor(parameters={"binary_data_size": 1 << 70}), (), 400, "binary_data_size"),
    "binary size absent": (tensor(parameters={"binary_data_size": 16}), (), 400, "binary"),
    "JSON longer than body": (DOUBLE, ("Inference-Header-Content-Length: 99999999999",), 400, "Length"),
    "JSON of negative size": (DOUBLE, ("Inference-Header-Content-Length: -1",), 400, "Length"),
    "output twice": ({**DOUBLE, "outputs": [{"name": "y"}, {"name": "y"}]}, (), 400, "twice"),
    "output 1000 times": ({**DOUBLE, "outputs": [{"name": "y"}] * 1000}, (), 400, "y"),
    "input twice": ({"inputs": DOUBLE["inputs"] * 2}, (), 400, "twice"),
    "unknown output": ({**DOUBLE, "outputs": [{"name": "z" * 100_000}]}, (), 400, "unknown"),
    "deep": (b'{"inputs":' + b"[" * 400_000, (), 400, "JSON"),
    "long number": (b'{"inputs":' + b"9" * 400_000 + b"}", (), 400, ""),
    "gzip bomb": (gzip.compress(bytes(1 << 27), 1), ("Content-Encoding: gzip",), 413, "without gzip"),
    "cut gzip": (gzip.compress(json.dumps(DOUBLE).encode())[:-5], ("Content-Encoding: gzip",), 400, "gzip"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bodies_that_lie_about_their_size(daemon: BareDaemon, case: str) -> None:
    body, headers, status, text = BAD_BODIES[case]
    for address in places(daemon, "double"):
        with connect(address) as sock:
            for _ in range(3):
                sock.sendall(infer("double", body, *headers))
                found, _, answer = receive(sock)
                assert found == status and text in answer["error"] and len(answer["error"]) < 1000, answer


def test_memory_eaters(daemon: BareDaemon) -> None:
    """A run that wants more than its worker may have fails alone, time after time."""
    with connect(daemon.port) as sock:
        for value in (1 << 62, 1 << 40, 1 << 28, MEMORY_MB << 18) * 3:
            sock.sendall(infer("wide", count(value)))
            status, _, answer = receive(sock)
            assert status == 500, answer
            assert value > 1 << 28 or "serving.worker_memory_mb" in answer["error"], answer
            sock.sendall(infer("wide", count(2)))
            assert receive(sock)[2]["outputs"][0]["data"] == [0, 0]


def test_workers_that_crash_and_hang_with_clients_in_every_state(daemon: BareDaemon) -> None:
    """SIGSEGV, then a run that does not end: who had a request there is told, the others are answered.

    What a worker had not read yet is its successor's, which then hangs: each fault may cost two workers, and five in a
    minute would have the model given up.
    """
    for fault in ("crash", "hang"):
        pid = footprints(daemon.pid)["spin"].pid
        with contextlib.ExitStack() as stack:
            kinds = [stack.enter_context(connect(address)) for address in places(daemon, "spin") * 4]
            idle, partial, unread = kinds[:4], kinds[4:6], kinds[6:]
            for sock in idle:
                sock.sendall(infer("spin", count(1)))
                assert receive(sock)[0] == 200
            for sock in partial:
                sock.sendall(infer("spin", count(1))[:-10])
            for sock in unread:
                sock.sendall(infer("spin", count(FOREVER)))
            time.sleep(0.5)  # so that one of them runs
            if fault == "crash":
                os.kill(pid, signal.SIGSEGV)
            for sock in (*partial, *unread):
                status, headers, answer = receive(sock)
                assert (status, headers["Retry-After"]) == (503, "1"), answer
                assert "hung" in answer["error"] or (fault == "crash" and "SIGSEGV" in answer["error"])
            for sock in idle:  # told that the worker is being started, or answered by it
                sock.sendall(infer("spin", count(1)))
                status, headers, answer = receive(sock)
                assert status == 200 or (status, headers["Retry-After"]) == (503, "1"), answer
            for address in places(daemon, "spin"):
                until(lambda address=address: trouble(address, "spin", count(1)))  # type: ignore[misc]
        assert footprints(daemon.pid)["spin"].pid != pid
