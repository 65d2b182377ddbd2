"""Answers on a model's own socket while its worker is not started again soon; then hands the connections on."""

from __future__ import annotations

import socket
from collections.abc import Callable

from agent.errors import WorkerError
from agent.serving.http.connection import Connection
from agent.serving.http.connections import Connections
from agent.serving.http.messages import RETRY, Head, Reply, RequestError
from agent.serving.processes.process import Worker


class StandIn:
    """``worker``: who takes requests again, if somebody does; ``why``: what clients are told until then."""

    def __init__(self, worker: Callable[[], Worker | None], why: Callable[[], str]) -> None:
        self._worker = worker
        self._why = why
        self._connections = Connections(self)
        self.listening = False

    def listen(self, listener: socket.socket) -> None:
        """Accept too; OSError when there is no descriptor to be had."""
        if not self.listening:
            self._connections.listen(listener.dup(), door=False)
            self.listening = True

    def adopt(self, sock: socket.socket, unread: bytes) -> None:
        """Serve a connection of the model's."""
        self._connections.adopt(sock, door=False, unread=unread)

    def retire(self) -> None:
        """Accept no more; what is idle goes to the worker, the rest with its next request."""
        self._connections.stop_listening()
        self.listening = False
        worker = self._worker()
        for connection in self._connections:
            if worker is not None and connection.idle:
                try:
                    _pass_on(connection, worker)
                except WorkerError:
                    connection.close()

    async def close(self) -> None:
        """Close everything."""
        await self._connections.close()

    def on_head(self, connection: Connection, _: Head) -> Reply | memoryview | None:
        """Pass the connection on, or say why not."""
        worker = self._worker()
        if worker is None:
            raise RequestError(503, self._why(), RETRY)
        try:
            _pass_on(connection, worker)
        except WorkerError as error:
            raise RequestError(503, f"model {worker.spec.model!r} is busy: {error}", RETRY) from error
        return None

    def on_body(self, *_: object) -> Reply | None:
        """Never called: no body is read here."""
        raise NotImplementedError("a stand-in reads no bodies")

    def on_lost(self, connection: Connection) -> None:
        """Closed, or with a worker."""
        self._connections.forget(connection)


def _pass_on(connection: Connection, worker: Worker) -> None:
    connection.hand_over(lambda fd, unread: worker.pass_connection(fd, unread, door=False))
