"""A service that does what a test says: each connection is served by the next step of a script."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[["Peer"], None]


class Peer:
    """The service's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unread = b""

    def request(self) -> tuple[str, dict[str, Any], bytes]:
        """One request: its first line, its JSON (or {}), and the tensors behind."""
        while b"\r\n\r\n" not in self._unread:
            self._more()
        head, _, rest = self._unread.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        self._unread = rest
        length = int(fields.get("content-length", 0))
        while len(self._unread) < length:
            self._more()
        body, self._unread = self._unread[:length], self._unread[length:]
        split = int(fields.get("inference-header-content-length", length))
        return lines[0], json.loads(body[:split] or b"{}"), body[split:]

    def answer(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        self.sock.sendall("\r\n".join([*lines, "\r\n"]).encode() + body)

    def tensors(self, **arrays: np.ndarray[Any, Any]) -> None:
        """Answer with binary FP32 tensors."""
        entries = [
            {"name": name, "datatype": "FP32", "shape": list(array.shape),
             "parameters": {"binary_data_size": array.nbytes}}
            for name, array in arrays.items()
        ]  # fmt: skip
        text = json.dumps({"outputs": entries}).encode()
        data = b"".join(array.tobytes() for array in arrays.values())
        self.answer(text + data, "200 OK", f"Inference-Header-Content-Length: {len(text)}")

    def _more(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError
        self._unread += data


@contextlib.contextmanager
def service(folder: Path, *steps: Step, tcp: bool = False) -> Iterator[str]:
    """Its address. Every step must have been taken at the end."""
    listener = socket.create_server(("127.0.0.1", 0)) if tcp else socket.socket(socket.AF_UNIX)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}" if tcp else str(folder / "http.sock")
    if not tcp:
        listener.bind(address)
        listener.listen(8)
    listener.settimeout(10)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            for step in steps:
                sock, _ = listener.accept()
                sock.settimeout(10)
                with sock:
                    step(Peer(sock))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield address
    finally:
        thread.join(15)
        listener.close()
    assert not failures, failures


def each(steps: Sequence[Step]) -> Step:
    """Several steps on one connection."""

    def all_of(peer: Peer) -> None:
        for step in steps:
            step(peer)

    return all_of


def double(peer: Peer) -> None:
    """y = 2 x, of FP32."""
    _, document, data = peer.request()
    x = np.frombuffer(data, np.float32).reshape(document["inputs"][0]["shape"])
    peer.tensors(y=x * 2)
