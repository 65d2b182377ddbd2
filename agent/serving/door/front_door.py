"""The front door: one address for every model.

Reads a request's head, answers for the server itself, and passes the connection to the worker of the model: from then
on the data path is client ↔ worker. A connection whose next request is for someone else comes back.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.errors import OverlaidError, WorkerError, one_line
from agent.serving.door.calls import Call, body_memory
from agent.serving.door.node import NodeState
from agent.serving.door.server_api import ServerApi
from agent.serving.door.shared_memory import SharedMemory
from agent.serving.http.connection import Connection
from agent.serving.http.connections import Connections
from agent.serving.http.listeners import listen_tcp, listen_unix
from agent.serving.http.messages import RETRY, Head, Reply, RequestError
from agent.serving.http.sites import check_site
from agent.serving.pool import Pool
from agent.serving.processes.process import Worker
from agent.serving.protocol.targets import check_method, parse_target

log = logging.getLogger(__name__)


class FrontDoor:
    """``http``: ``127.0.0.1:PORT`` (port 0: any free one) or empty for none; ``unix_path``: a socket, mode 0660.

    ``node``: what the status page and /metrics show of the node. ``shared_memory``: clients may register memory, by
    calls and over ``shm.sock`` beside ``unix_path``.
    """

    def __init__(
        self,
        pool: Pool,
        http: str,
        unix_path: Path,
        node: Callable[[], NodeState],
        shared_memory: bool = False,
    ) -> None:
        self._pool = pool
        self._shared_memory = SharedMemory(unix_path.with_name("shm.sock") if shared_memory else None)
        if self._shared_memory.on:
            self._pool.introduce = self._shared_memory.table.introduce
        self._api = ServerApi(pool, node, self._shared_memory)
        self._tasks: set[asyncio.Task[None]] = set()
        self._http = http
        self._unix_path = unix_path
        self.address: tuple[str, int] | None = None
        self._connections: Connections | None = None

    async def start(self) -> None:
        """Listen. Raises WorkerError when an address is taken or not allowed."""
        connections = self._connections = Connections(self)
        connections.listen(listen_unix(self._unix_path), door=True)
        if self._http:
            try:
                listener = listen_tcp(self._http)
            except WorkerError:
                await self.stop()
                raise
            self.address = listener.getsockname()
            connections.listen(listener, door=True)
        try:
            await self._shared_memory.start()
        except WorkerError:
            await self.stop()
            raise
        self._pool.homes.door = self

    async def stop(self) -> None:
        """Close the listening sockets and the connections that are here (not those with the workers)."""
        if self._connections is None:
            return  # it never listened: the socket's path is somebody else's
        await self._shared_memory.stop()
        self._pool.homes.door = None
        for task in self._tasks:
            task.cancel()
        await self._connections.close()
        self._unix_path.unlink(missing_ok=True)

    def on_head(self, connection: Connection, head: Head) -> Reply | memoryview | None:
        """Ask for the body of a request to the server itself, or pass the connection on."""
        check_site(connection, head)
        target = parse_target(head.path)
        if target.model is not None:
            self._pass_on(connection, self._worker(target.model))
            return None
        return check_method(head, target) or body_memory(head)

    def on_body(self, connection: Connection, head: Head, body: memoryview) -> Reply | None:
        """Answer for the server, at once or later."""
        try:
            answer = self._api.answer(Call(parse_target(head.path), head, body, connection))
        except Exception as error:
            return _failure(error)
        if isinstance(answer, Reply):
            return answer
        task = asyncio.get_running_loop().create_task(_later(connection, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    def on_lost(self, connection: Connection) -> None:
        """Closed, or with a worker now."""
        if self._connections is not None:
            self._connections.forget(connection)

    def _worker(self, model: str) -> Worker:
        if not self._pool.serves(model):
            raise RequestError(404, f"model {model[:64]!r} is not served here")
        worker, trouble = self._pool.worker(model), self._pool.trouble(model)
        if worker is None or trouble:
            self._api.unavailable[model] += 1
            raise RequestError(503, trouble, RETRY)
        return worker

    def _pass_on(self, connection: Connection, worker: Worker) -> None:
        def send(fd: int, unread: bytes) -> None:
            worker.pass_connection(fd, unread, door=True)

        try:
            connection.hand_over(send)
        except WorkerError as error:
            raise RequestError(
                503, f"model {worker.spec.model!r} is busy: {error}; try again", RETRY
            ) from error

    def take_back(self, sock: socket.socket, unread: bytes) -> None:
        """See ``homes.Door``."""
        if self._connections is not None:
            self._connections.adopt(sock, door=True, unread=unread)

    def dismiss(self, sock: socket.socket, reply: Reply | None) -> None:
        """See ``homes.Door``."""
        if self._connections is not None:
            self._connections.dismiss(sock, reply)


async def _later(connection: Connection, answer: Awaitable[Reply]) -> None:
    try:
        reply = await answer
    except Exception as error:
        reply = _failure(error)
    connection.reply(reply)


def _failure(error: Exception) -> Reply:
    if isinstance(error, RequestError):
        return error.reply()
    if isinstance(error, OverlaidError):
        return RequestError(503, one_line(error), RETRY).reply()
    log.error("a request to the server failed", exc_info=error)
    return RequestError(500, f"{type(error).__name__} in the daemon; see its log").reply()
