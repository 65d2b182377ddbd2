"""A worker that is played: an HTTP server on a Unix socket that answers as the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Answer = tuple[int, dict[str, str], bytes] | None  # status, headers, body; None: the connection breaks


def metadata(shape: list[int]) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "UINT8", "shape": shape}]}).encode()


class PlayedWorker:
    """Echoes the bytes behind the header until ``answers`` holds what to say instead, one after another."""

    def __init__(self) -> None:
        self.shape = [1, 4]
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, bytes]] = []
        self.connections = 0
        self.hold: asyncio.Event | None = None
        self.writers: list[asyncio.StreamWriter] = []

    @property
    def inferences(self) -> list[bytes]:
        return [body for target, body in self.requests if target.startswith("POST")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
                body = await reader.readexactly(int(fields.get("Content-Length", "0")))
                answer = await self._answer(head.split("\r\n")[0], body, fields)
                if answer is None:
                    break
                status, headers, data = answer
                lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{lines}\r\n".encode() + data
                )
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: str, body: bytes, fields: dict[str, str]) -> Answer:
        target = line.removesuffix(" HTTP/1.1")
        self.requests.append((target, body))
        if target == "GET /v2/models/m":
            return 200, {}, metadata(self.shape)
        assert target == "POST /v2/models/m/infer"
        if self.hold is not None:
            await self.hold.wait()
        if self.answers:
            return self.answers.pop(0)
        payload = body[int(fields["Inference-Header-Content-Length"]) :]
        return 200, {"Inference-Header-Content-Length": "2"}, b"{}" + payload

    def cut(self) -> None:
        """Close every connection, as a worker does with idle ones."""
        for writer in self.writers:
            writer.transport.abort()


def error(status: int, text: str, **headers: str) -> Answer:
    return status, headers, json.dumps({"error": text}).encode()


@asynccontextmanager
async def played(path: Path) -> AsyncIterator[PlayedWorker]:
    worker = PlayedWorker()
    server = await asyncio.start_unix_server(worker.serve, path)
    try:
        yield worker
    finally:
        server.close()
        worker.cut()
        await asyncio.sleep(0.01)  # what was closed is freed by the loop


async def until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait for something that must happen."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
