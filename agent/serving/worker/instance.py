"""One loaded copy of the model, and its thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from agent.hal import Session

T = TypeVar("T")


class Instance:
    """Sessions are not thread-safe: who uses one sets ``busy``, from the loop, and ``since`` to the loop's time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.busy = False
        self.since = 0.0
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")

    def work(self, task: Callable[[Session], T], done: Callable[[T | Exception], None]) -> None:
        """``task(session)`` on the instance's thread, then ``done`` on the loop with its result or what it raised."""

        def ended(future: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(done, _result(future))

        self._thread.submit(task, self.session).add_done_callback(ended)

    def close(self) -> None:
        """Free the model, unless it runs; the thread ends."""
        self._thread.shutdown(wait=False)
        if not self.busy:
            self.session.close()


def _result(future: Future[Any]) -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, Exception) else RuntimeError(f"the run was ended by {error!r}")
