"""Answers requests for blocks from the repository: QoS 0 frames on the package's shared topic.

Nodes that want the same package hear each other's blocks, so a block that has just been sent, or waits to be, is not
sent again. What a node lost it asks for again after its time-out. The first blocks for several nodes wait until these
have come (``gathering``).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.errors import BlockMissing, LinkError, MessageError, PackageError, one_line
from agent.fleet.gathering import Gathering
from agent.fleet.log import Log
from agent.fleet.turns import MAX_QUEUED, Turns
from agent.link.frames import encode_frame
from agent.link.messages import BlockRequest, parse
from agent.link.topics import block_data
from agent.mqtt import ROOT
from agent.types import check_digest
from agent.waiting import set_within

COALESCE_S = 1.0
MAX_REQUEST_BYTES = 4096
WINDOW = 4  # frames handed to the connection and not yet written to its socket
IDLE_S = 2.0
MAX_PACKAGES = 256  # counted at once

Publish = Callable[[str, bytes], "asyncio.Future[None]"]


class Packages(Protocol):
    """The repository, as far as it is served."""

    def manifest(self, digest: str) -> bytes: ...
    def block(self, sha: str) -> bytes: ...


@dataclass(slots=True)
class _Sent:
    blocks: int = 0
    nbytes: int = 0
    missing: int = 0
    last: float = 0.0


class BlockServer:
    """``publish`` sends at QoS 0 and returns a future that is done when the frame is on the socket. ``several``: see
    ``Gathering``."""

    def __init__(
        self,
        site: str,
        packages: Packages,
        publish: Publish,
        log: Log,
        several: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site, self._packages, self._publish = site, packages, publish
        self._log, self._clock = log, clock
        self._gathering = Gathering(several)
        self._queue = Turns()
        self._recent: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._window: deque[tuple[tuple[str, str], asyncio.Future[None]]] = deque()
        self._sent: dict[str, _Sent] = {}
        self._wake = asyncio.Event()

    @property
    def requests(self) -> str:
        """The topic filter of what this serves."""
        return f"{ROOT}/{self._site}/blocks/+/request"

    def handle(self, topic: str, payload: bytes) -> None:
        """Queue what a request asks for. Raises MessageError for what is not a request."""
        digest = topic.split("/")[-2]
        try:
            check_digest(digest)
        except ValueError as error:
            raise MessageError(f"block request: {error}") from error
        if len(payload) > MAX_REQUEST_BYTES:
            raise MessageError(f"block request: {len(payload)} bytes, more than {MAX_REQUEST_BYTES}")
        self._forget()
        for sha in parse(BlockRequest, payload).blocks:
            key = (digest, sha)
            if len(self._queue) + len(self._gathering) >= MAX_QUEUED:
                continue
            if not self._gathering.holds(digest, sha, self._clock()) and key not in self._recent:
                self._queue.add(key, len(self._gathering))
        self._wake.set()

    def disconnected(self) -> None:
        """Nobody waits for these blocks any more: nodes ask again once they are back."""
        self._queue.clear()
        self._gathering.clear()

    def _forget(self) -> None:
        limit = self._clock() - COALESCE_S
        while self._recent and next(iter(self._recent.values())) <= limit:
            self._recent.popitem(last=False)

    async def run(self) -> None:
        """Send what is queued until cancelled, never more than a few frames ahead of the socket."""
        while True:
            await asyncio.sleep(0)  # frames that cannot be sent do not wait, others must get their turn
            for due in self._gathering.due(self._clock()):
                self._queue.add(due)
            if not self._queue:
                await self._idle()
                continue
            key = self._queue.pop()
            frame = self._frame(*key)
            if frame is not None:
                self._recent[key] = self._clock()
                self._window.append((key, self._publish(block_data(self._site, key[0]), frame)))
            while len(self._window) >= WINDOW or (self._window and not self._queue):
                await self._settle()

    async def _idle(self) -> None:
        self._wake.clear()
        patience = self._gathering.patience(self._clock())
        if not await set_within(self._wake, IDLE_S if patience is None else min(patience, IDLE_S)):
            self._summarise(IDLE_S)

    def _frame(self, digest: str, sha: str) -> bytes | None:
        if len(self._sent) >= MAX_PACKAGES:
            self._summarise(0.0)
        sent = self._sent.setdefault(digest, _Sent())
        sent.last = self._clock()
        try:
            data = self._packages.manifest(digest) if sha == digest else self._packages.block(sha)
            frame = encode_frame(sha, data)
        except BlockMissing:
            sent.missing += 1
            return encode_frame(sha, b"")
        except PackageError as error:
            self._log("block-error", f"block {sha[:12]} cannot be sent: {one_line(error)}", block=sha)
            return None
        sent.blocks += 1
        sent.nbytes += len(data)
        return frame

    async def _settle(self) -> None:
        key, written = self._window.popleft()
        try:
            await written
        except LinkError:
            self._recent.pop(key, None)  # it was not sent: the next request must get it

    def _summarise(self, idle_s: float) -> None:
        for digest, sent in list(self._sent.items()):
            if self._clock() - sent.last < idle_s:
                continue
            del self._sent[digest]
            missing = f", {sent.missing} that are not here were asked for" if sent.missing else ""
            self._log(
                "blocks",
                f"sent {sent.blocks} blocks ({sent.nbytes / 1e6:.1f} MB) of package {digest[:12]}{missing}",
                package=digest,
                blocks=sent.blocks,
                bytes=sent.nbytes,
                missing=sent.missing,
            )
