"""HTTP/1.1 to a model's worker over the model's own socket; without numpy, because the daemon has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import WorkerCrashed, WorkerError, WorkerTimeout

MAX_HEAD = 16 * 1024
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ModelClient:
    """One keep-alive connection, for one request at a time. ``find`` gives the socket's path, None when the model is
    not served; ``max_body`` bounds an answer's body in bytes.

    A worker that is being replaced or restarted keeps the request waiting, not failing: the socket is the daemon's.
    """

    def __init__(
        self, find: Callable[[], Path | None], max_body: int, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._find, self._max_body, self._timeout_s = find, max_body, timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._late = False

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Raises WorkerCrashed when the connection ends without an answer (also one that was idle for so long that the
        worker closed it), WorkerTimeout, and WorkerError when there is none to be had or the answer is too large."""
        fields = {"Host": "localhost", **(headers or {})}
        if method == "POST":
            fields["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        message = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
        self._late = False
        try:
            return await self._exchange(message)
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
            if self._late:
                raise WorkerTimeout(f"no answer within {self._timeout_s:g} s") from error
            raise WorkerCrashed(f"the worker went away before it answered ({error})") from error

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _exchange(self, message: bytes) -> Reply:
        reader, writer = await self._connected()
        # Not wait_for, which before Python 3.12 may swallow a cancellation.
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up, writer)
        try:
            writer.write(message)
            reply = await self._read(reader)
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
        if reply.headers.get("connection", "").lower() == "close":
            self.close()
        return reply

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            path = self._find()
            if path is None:
                raise WorkerError("the model is not in service here any more")
            try:
                self._streams = await asyncio.open_unix_connection(path, limit=MAX_HEAD)
            except OSError as error:
                raise WorkerError(
                    f"no connection to the model's worker: {error.strerror or error}"
                ) from error
        return self._streams

    def _give_up(self, writer: asyncio.StreamWriter) -> None:
        self._late = True
        writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> Reply:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        status = int(first.partition(" ")[2][:3])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= self._max_body:
            raise WorkerError(f"the answer has {length} bytes; a message takes {self._max_body}")
        return Reply(status, headers, await reader.readexactly(length))
