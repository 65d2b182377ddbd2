"""Answers requests for metadata of the TUF repository: QoS 0, on one topic a file.

A file goes out at most once in ``COALESCE_S``: who asks meanwhile gets it at the end of these, with all others who do.
What the repository does not have is answered too, by no bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from agent.errors import LinkError, MessageError, OverlaidError, StoreError, one_line
from agent.fleet.log import Log
from agent.fleet.serve import Publish
from agent.fleet.turns import Turns
from agent.link.messages import RepoRequest, parse
from agent.link.topics import metadata_data, metadata_requests
from agent.link.values import MAX_PAYLOAD_BYTES
from agent.waiting import set_within

COALESCE_S = 0.2  # far less than the time after which a node asks again
MAX_REQUEST_BYTES = 1024
_HERE, _MISSING = "here", "missing"


class Files(Protocol):
    """The repository's metadata; None for what it does not have."""

    def read(self, name: str) -> bytes | None: ...


class MetadataServer:
    """``publish`` sends at QoS 0 and returns a future that is done when the message is on the socket."""

    def __init__(
        self,
        site: str,
        files: Files,
        publish: Publish,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site, self._files, self._publish = site, files, publish
        self._log, self._clock = log, clock
        self.requests = metadata_requests(site)
        # Names are anybody's to make up: what is not here takes turns with what is, and has half of the queue at most.
        self._queue = Turns()
        self._recent: OrderedDict[str, float] = OrderedDict()
        self._again: dict[str, None] = {}  # of these
        self._wake = asyncio.Event()
        self._complained = ""

    def handle(self, payload: bytes) -> None:
        """Queue what a request asks for. Raises MessageError for what is not a request."""
        if len(payload) > MAX_REQUEST_BYTES:
            raise MessageError(f"metadata request: {len(payload)} bytes, more than {MAX_REQUEST_BYTES}")
        for name in parse(RepoRequest, payload).names:
            if name in self._recent:
                self._again[name] = None
            else:
                self._add(name)
        self._wake.set()

    def disconnected(self) -> None:
        """Nobody waits for these any more: nodes ask again once they are back."""
        self._queue.clear()
        self._recent.clear()
        self._again.clear()

    async def run(self) -> None:
        """Send what is queued until cancelled, one at a time: they are small, and blocks have the same connection."""
        while True:
            await asyncio.sleep(0)  # what cannot be sent does not wait, others must get their turn
            patience = self._requeue()
            if self._queue:
                _, name = self._queue.pop()
                await self._send(name)
                continue
            self._wake.clear()
            await set_within(self._wake, patience)

    def _requeue(self) -> float | None:
        """Queue what was asked for while it might not be sent; seconds until there may be more, None: no time."""
        now = self._clock()
        while self._recent:
            name, sent = next(iter(self._recent.items()))
            if sent + COALESCE_S > now:
                return sent + COALESCE_S - now
            del self._recent[name]
            if name in self._again:
                del self._again[name]
                self._add(name)
        return None

    def _add(self, name: str) -> None:
        if (_HERE, name) not in self._queue and (_MISSING, name) not in self._queue:
            self._queue.add((self._kind(name), name))  # what does not fit is asked for again

    def _kind(self, name: str) -> str:
        try:
            return _MISSING if self._files.read(name) is None else _HERE
        except OverlaidError:
            return _HERE  # sending it says why it cannot be sent

    async def _send(self, name: str) -> None:
        try:
            data = self._files.read(name) or b""
            if len(data) > MAX_PAYLOAD_BYTES:
                raise StoreError(f"{len(data)} bytes, more than {MAX_PAYLOAD_BYTES} in a message")
        except OverlaidError as error:
            self._complain(name, one_line(error))
            return
        self._complained = ""
        self._recent[name] = self._clock()
        try:
            await self._publish(metadata_data(self._site, name), data)
        except LinkError:  # it was not sent: the next request must get it
            self._recent.pop(name, None)
            self._again.pop(name, None)

    def _complain(self, name: str, problem: str) -> None:
        if problem != self._complained:
            self._log("repo-error", f"metadata {name} cannot be sent: {problem}", name=name)
        self._complained = problem
