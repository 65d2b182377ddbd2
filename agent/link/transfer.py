"""One fetch of blocks: which are asked for when, and how they get from the event loop to the disk."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from agent.errors import BlockError, BlockMissing, MessageError
from agent.link.client import MqttLink
from agent.link.frames import DIGEST_BYTES, Counters, decode_frame
from agent.link.messages import BlockRequest
from agent.link.pace import Pace
from agent.link.topics import block_requests
from agent.link.window import MAX_BYTES, Window
from agent.waiting import set_within, to_the_end

MANY_WRONG = 16  # worth a line in the log, once a fetch
MAX_PENDING_BYTES = 2 * MAX_BYTES  # wait for the disk: all that was asked for, and what others did
BATCH = 4  # frames taken to the disk at once

log = logging.getLogger(__name__)


class Transfer:
    """Blocks of one package on their way: asked for, checked for their size, taken to ``deliver``. See
    ``blocks.Feed.fetch``, which feeds it what passes by."""

    def __init__(
        self,
        site: str,
        package: str,
        wanted: Mapping[str, int],
        deliver: Callable[[str, bytes], None],
        counters: Counters,
        pace: Pace,
    ) -> None:
        self._package = package
        self._requests = block_requests(site, package)
        self._sizes = dict(wanted)
        self._window = Window(wanted)
        self._deliver = deliver
        self._counters = counters
        self._pace = pace
        self._before: set[str] = set()  # asked for at least once
        self._wrong = 0
        self._wake = asyncio.Event()
        self._error: Exception | None = None
        self._pending: deque[tuple[str, bytes]] = deque()
        self._pending_bytes = 0
        self._filled = asyncio.Event()
        self._ended = False

    async def run(self, link: MqttLink) -> None:
        """Ask and wait until everything was delivered."""
        keeping = asyncio.ensure_future(self._keep())
        try:
            await self._fetch(link)
        finally:
            self._ended = True
            keeping.cancel()
            canceled = await to_the_end(keeping)
            if canceled is not None:
                raise canceled

    async def _fetch(self, link: MqttLink) -> None:
        while self._pending_bytes and self._error is None:  # what passed by early is not asked for
            self._wake.clear()
            await set_within(self._wake, None)
        while self._error is None and len(self._window):
            self._wake.clear()
            patience: float | None = None
            if link.is_connected:
                self._ask(link)
                now = time.monotonic()
                # What is late cannot be asked for either while the pace does not allow it.
                patience = self._pace.wait(now) or self._window.patience(now)
            await set_within(self._wake, patience)
        if self._error is not None:
            raise self._error

    def _ask(self, link: MqttLink) -> None:
        now = time.monotonic()
        blocks = self._window.request(now, self._pace.room(now))
        if not blocks:
            return
        # Lost with the connection at worst; a new one begins with the same request.
        link.publish(self._requests, BlockRequest(blocks=blocks).encode(), qos=0)
        self._pace.ask(sum(self._sizes[sha] for sha in blocks), now)
        self._counters.asked += len(blocks)
        self._counters.bytes_again += sum(self._sizes[sha] for sha in blocks if sha in self._before)
        self._before.update(blocks)

    def connected(self) -> None:
        self._window.restart()
        self._wake.set()

    def disconnected(self, reason: str) -> None:
        log.warning("package %s: %d blocks to go; %s", self._package[:12], len(self._window), reason)

    def receive(self, frame: bytes, counted: bool = False) -> None:
        """``counted``: the pace knows of it already."""
        if self._error is not None:
            return
        sha = frame[:DIGEST_BYTES].hex()
        if not counted and not (sha in self._window.asked and self._sizes[sha]):
            self._pace.pass_by(len(frame), time.monotonic())
        try:
            self._take(frame)
        except BlockMissing as error:
            self._error = error
            self._wake.set()

    def _take(self, frame: bytes) -> None:
        try:
            sha, data = decode_frame(frame)
        except MessageError:
            self._is_wrong()
            return
        if sha not in self._window:
            self._counters.unwanted += 1
            return
        if not data:
            raise BlockMissing(
                f"the server does not have block {sha[:12]} of package {self._package[:12]}; publish the package again "
                "where overlaid fleet serve runs"
            )
        size = self._sizes[sha]
        if size and len(data) != size:
            self._is_wrong()
        elif self._pending_bytes + len(data) <= MAX_PENDING_BYTES:  # else it is asked for again
            self._pending.append((sha, data))
            self._pending_bytes += len(data)
            self._filled.set()

    async def _keep(self) -> None:
        """Take what is pending to ``deliver``, which may be as slow as a disk, a few blocks at a time."""
        while True:
            await self._filled.wait()
            batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            if not self._pending:
                self._filled.clear()
            wanted = [(sha, data) for sha, data in batch if sha in self._window]
            work = asyncio.ensure_future(asyncio.to_thread(self._deliver_all, wanted))
            canceled = await to_the_end(work)
            self._pending_bytes -= sum(len(data) for _, data in batch)
            for (sha, data), error in zip(wanted, work.result(), strict=False):
                self._delivered(sha, len(data), error)
            self._wake.set()
            if canceled is not None:
                raise canceled

    def _deliver_all(self, blocks: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """On a thread: what became of each, up to the first that failed for another reason than its own bytes."""
        done: dict[str, None] = {}
        found: list[Exception | None] = []
        for sha, data in blocks:
            if self._ended:
                break
            try:
                if sha not in done:
                    self._deliver(sha, data)
                done[sha] = None
                found.append(None)
            except BlockError as error:
                found.append(error)
            except Exception as error:  # whatever else the caller's deliver raises ends its fetch
                found.append(error)
                break
        return found

    def _delivered(self, sha: str, size: int, error: Exception | None) -> None:
        if isinstance(error, BlockError):
            self._is_wrong()
        elif error is not None:
            self._error = error
        elif sha in self._window:
            self._counters.blocks += 1
            self._counters.bytes_useful += size
            self._window.arrived(sha, time.monotonic())

    def _is_wrong(self) -> None:
        self._counters.wrong += 1
        self._wrong += 1
        if self._wrong == MANY_WRONG:
            log.warning(
                "package %s: %d frames are not what they say they are: somebody else publishes on %s, or the server's "
                "repository is damaged; they are dropped",
                self._package[:12],
                self._wrong,
                self._requests.replace("/request", "/data"),
            )
