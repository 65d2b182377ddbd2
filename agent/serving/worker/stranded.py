"""Requests whose device was lost under them: they wait a while, since the daemon brings the model elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from agent.serving.http.connection import Connection
from agent.serving.processes.channel import MAX_MESSAGE

PATIENCE_S = 10.0  # from the first failure on: starting a worker takes a second or two, a busy machine longer
MOST = 64
MOST_BYTES = MAX_MESSAGE - 512  # of a request, which goes on in one message, beside what is said of it


@dataclass(slots=True)
class _Stranded:
    request: bytes
    refuse: Callable[[], None]
    timer: asyncio.TimerHandle


class Stranded:
    """``pass_on(connection, request)`` gives a connection back to the daemon with the request that is open on it; False
    when it cannot."""

    def __init__(self, pass_on: Callable[[Connection, bytes], bool]) -> None:
        self._pass_on = pass_on
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Connection, _Stranded] = {}
        self._until: float | None = None  # when the first failure is too long ago
        self.leaving = False  # the model is served elsewhere by now

    def keep(self, connection: Connection, body: memoryview | None, refuse: Callable[[], None]) -> bool:
        """Whether the request is answered elsewhere, or later by ``refuse``. ``body``: None when it was not kept."""
        now = self._loop.time()
        self._until = self._until or now + PATIENCE_S
        if body is None or self._until <= now or len(self._waiting) >= MOST:
            return False
        request = connection.head + body
        if len(request) > MOST_BYTES:
            return False
        if self.leaving:
            return self._pass_on(connection, request)
        timer = self._loop.call_at(self._until, self._refuse, connection)
        self._waiting[connection] = _Stranded(request, refuse, timer)
        return True

    def leave(self) -> None:
        """Who waits goes on to where the model is served now."""
        self.leaving = True
        for connection, one in self._take_all():
            if not self._pass_on(connection, one.request):
                one.refuse()

    def well(self) -> None:
        """The device works: who waits may try again."""
        if self._until is None:
            return
        self._until = None
        for _, one in self._take_all():
            one.refuse()

    def forget(self, connection: Connection) -> None:
        """Its client has gone."""
        one = self._waiting.pop(connection, None)
        if one is not None:
            one.timer.cancel()

    def _refuse(self, connection: Connection) -> None:
        self._waiting.pop(connection).refuse()

    def _take_all(self) -> list[tuple[Connection, _Stranded]]:
        taken = list(self._waiting.items())
        self._waiting.clear()
        for _, one in taken:
            one.timer.cancel()
        return taken
