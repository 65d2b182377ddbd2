"""Where connections go whose worker gives them back, or is gone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Protocol

from agent.errors import WorkerError
from agent.serving.http.messages import RETRY, Reply, RequestError
from agent.serving.http.seat import BUSY, IDLE
from agent.serving.processes.custody import Orphan
from agent.serving.processes.process import Worker
from agent.serving.route import Route


class Door(Protocol):
    """What the front door does for the pool."""

    def take_back(self, sock: socket.socket, unread: bytes) -> None:
        """A keep-alive connection whose next request is for someone else, or whose worker is gone."""
        ...

    def dismiss(self, sock: socket.socket, reply: Reply | None) -> None:
        """A connection whose worker is gone: answer its request (None: that had begun), then close it."""
        ...


class Homes:
    """``door`` is the front door while it is open."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self.door: Door | None = None

    def returned(
        self, worker: Worker, connection: socket.socket, unread: bytes, door: bool, elsewhere: bool
    ) -> None:
        """A worker gives a connection back: it drains, or (``elsewhere``) the next request is not for its model."""
        route = self._routes.get(worker.spec.model)
        successor = route.worker if route else None
        if not elsewhere and successor is not None and successor is not worker:
            with connection, contextlib.suppress(WorkerError):
                successor.pass_connection(connection.fileno(), unread, door)
        elif door and self.door is not None:
            self.door.take_back(connection, unread)
        elif not door and route is not None and successor is None:
            route.wait(connection, unread)
        else:
            connection.close()

    def orphaned(self, worker: Worker, orphans: list[Orphan]) -> None:
        """A worker is gone: nobody whose request was there waits in vain, nobody else notices."""
        route = self._routes.get(worker.spec.model)
        if route is not None:
            route.lost(worker)
        text = f"the worker of {worker.spec} {worker.fate} while it had this request; try again"
        reply = RequestError(503, text, RETRY).reply()
        for orphan in orphans:
            if orphan.state == IDLE:
                self.returned(worker, orphan.sock, b"", orphan.door, False)
            elif self.door is not None:
                self.door.dismiss(orphan.sock, reply if orphan.state == BUSY else None)
            else:
                orphan.sock.close()
