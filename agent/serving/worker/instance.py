"""One loaded copy of the model, and its thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from agent.hal import Session

T = TypeVar("T")
Work = tuple[Callable[[Session], Any], Callable[[Any], None]]


class Instance:
    """Sessions are not thread-safe: who uses one sets ``busy``, from the loop, and ``since`` to the loop's time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.busy = False
        self.since = 0.0
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def work(self, task: Callable[[Session], T], done: Callable[[T | Exception], None]) -> None:
        """``task(session)`` on the instance's thread, then ``done`` on the loop with its result or what it raised."""
        if self._thread is None:
            thread = threading.Thread(target=self._live, name="inference", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no memory for its stack
                self._loop.call_soon(done, error)
                return
            self._thread = thread
        self._work.put((task, done))

    def close(self) -> None:
        """Free the model, unless it runs; the thread ends."""
        self._work.put(None)
        if not self.busy:
            self.session.close()

    def _live(self) -> None:
        while (work := self._work.get()) is not None:
            task, done = work
            try:
                result = task(self.session)
            except Exception as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(done, result)
            del work, task, done, result  # what a request brought is not kept until the next one
