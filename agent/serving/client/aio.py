"""The client for asyncio: the same calls, and many at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from agent.serving.client.address import Address, ended
from agent.serving.client.answers import Answer, Receiver, Results, document
from agent.serving.client.errors import (
    ModelNotFound,
    ModelUnavailable,
    ServiceUnreachable,
    Stale,
    too_late,
)
from agent.serving.client.memory import SharedArrays
from agent.serving.client.requests import Array, InferRequests, Outputs, Request, get, model_path
from agent.serving.client.sync import GRACE_S, WAIT_S


class AsyncClient:
    """As ``Client``, from one event loop. ``connections``: calls that go on at once; more wait for their turn."""

    def __init__(self, address: str | Path, retry_s: float = 0.0, connections: int = 16) -> None:
        self._address = Address.parse(address)
        self._retry_s = retry_s
        self._memory = SharedArrays(self._address.memory)
        self._requests = InferRequests(self._memory.place)
        self._idle: list[_Link] = []
        self._free = asyncio.Semaphore(connections)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        outputs: Outputs = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> dict[str, Array]:
        """See ``Client.infer``. Shared arrays of one call must not be those of another that goes on."""
        wait_s = WAIT_S if timeout_s is None else timeout_s + GRACE_S
        end = time.monotonic() + self._retry_s
        while True:
            try:
                request = self._requests.make(model, inputs, outputs, timeout_s, priority)
                async with self._free:
                    link, answer = await self._exchange(request, wait_s)
                    self._put_back(link, answer)
                    return link.results.arrays(answer, outputs)
            except ModelNotFound:
                if not await asyncio.to_thread(self._memory.renew):
                    raise
            except (ModelUnavailable, ServiceUnreachable) as error:
                pause_s = getattr(error, "retry_after", 0.1)
                if time.monotonic() + pause_s > end:
                    raise
                await asyncio.sleep(pause_s)

    async def metadata(self, model: str) -> dict[str, Any]:
        """See ``Client.metadata``."""
        found: dict[str, Any] = await self._ask(model_path(model))
        return found

    async def ready(self, model: str) -> bool:
        """See ``Client.ready``."""
        try:
            await self._ask(model_path(model, "/ready"))
        except (ModelNotFound, ModelUnavailable):
            return False
        return True

    async def statistics(self, model: str) -> dict[str, Any]:
        """See ``Client.statistics``."""
        found: dict[str, Any] = (await self._ask(model_path(model, "/stats")))["model_stats"][0]
        return found

    async def shared(self, shape: Sequence[int] | int, dtype: DTypeLike = np.float32) -> Array:
        """See ``Client.shared``."""
        return await asyncio.to_thread(self._memory.make, shape, dtype)

    async def close(self) -> None:
        """Close the connections and unregister shared memory."""
        while self._idle:
            self._idle.pop().close()
        self._memory.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, path: str) -> Any:
        async with self._free:
            link, answer = await self._exchange(get(path), WAIT_S)
            self._put_back(link, answer)
            return document(answer)

    async def _exchange(self, request: Request, wait_s: float) -> tuple[_Link, Answer]:
        """Over a connection from before; when that has ended meanwhile, once over a new one."""
        if self._idle:
            link = self._idle.pop()
            try:
                return link, await link.exchange(request, wait_s)
            except Stale:  # what has ended one has probably ended all
                while self._idle:
                    self._idle.pop().close()
        # On this machine connecting takes no time, or fails at once.
        link = _Link(self._address.connect())
        try:
            return link, await link.exchange(request, wait_s)
        except Stale as error:
            raise ServiceUnreachable("the service ended the connection before it took the request") from error

    def _put_back(self, link: _Link, answer: Answer) -> None:
        """No other task runs between this and the reading of the answer, which may lie in the connection's memory."""
        if answer.head.close:
            link.close()
        else:
            self._idle.append(link)


class _Link:
    """One connection, for one call at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.results = Results()
        sock.setblocking(False)
        self._sock = sock
        self._receiver = Receiver()
        self._late = False

    async def exchange(self, request: Request, wait_s: float) -> Answer:
        """Send and receive. Raises Stale, ConnectionLost, DeadlineExceeded; the connection is closed then."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(wait_s, self._expire)
        try:
            return await self._receive(loop, await self._send(loop, request))
        except BaseException as error:
            self.close()
            if self._late and isinstance(error, Exception):
                raise too_late(wait_s) from None
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        self._sock.close()

    def _expire(self) -> None:
        """Whoever waits for the socket sees its end."""
        self._late = True
        self._sock.shutdown(socket.SHUT_RDWR)

    async def _send(self, loop: asyncio.AbstractEventLoop, request: Request) -> bool:
        """False when the service does not take all of the request: it may have answered all the same."""
        if ended(self._sock):
            raise Stale
        try:
            try:
                sent = self._sock.sendmsg(request.parts)
            except BlockingIOError:
                sent = 0
            for piece in request.unsent(sent):
                await loop.sock_sendall(self._sock, piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def _receive(self, loop: asyncio.AbstractEventLoop, whole: bool) -> Answer:
        receiver = self._receiver
        receiver.expect()
        while True:
            try:
                count = await loop.sock_recv_into(self._sock, receiver.buffer())
            except ConnectionResetError:  # there was something of the request that it had not read
                raise receiver.ended(whole=False) from None
            if count == 0:
                raise receiver.ended(whole)
            answer = receiver.received(count)
            if answer is not None:
                return answer
