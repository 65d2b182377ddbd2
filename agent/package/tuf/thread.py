"""The same question in a thread instead of a process: for many simulated nodes in one process, where memory counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.package.tuf.parent import Answers, TufVerifier
from agent.waiting import to_the_end

# Of all nodes. Most of the time a thread waits for the network, and nodes that verify one after the other would ask for
# their blocks one after the other, too, as a group of real ones does not.
_THREADS = ThreadPoolExecutor(64, "verify")


class ThreadVerifier(TufVerifier):
    """See ``TufVerifier``. Imports python-tuf at the first question."""

    async def _find(self, request: Mapping[str, Any], answers: Answers) -> tuple[str, str]:
        loop = asyncio.get_running_loop()
        stopped = False

        async def get(name: str, limit: int) -> bytes | None:
            if stopped:
                raise asyncio.CancelledError
            return await answers.get(name, limit)

        def find() -> tuple[str, str]:
            from agent.package.tuf.client import Request
            from agent.package.tuf.client import find as find_target

            def wait(name: str, limit: int) -> bytes | None:
                return asyncio.run_coroutine_threadsafe(get(name, limit), loop).result()

            found = find_target(Request(**request), wait)
            return found.sha256, found.role

        begun = _THREADS.submit(find)
        work = asyncio.wrap_future(begun)
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            stopped = True
            answers.cancel()
            if not begun.cancel():
                await to_the_end(asyncio.gather(work, return_exceptions=True))
            raise
        return work.result()
