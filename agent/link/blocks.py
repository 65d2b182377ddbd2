"""Blocks over MQTT: asked for by digest, answered on a topic that all nodes share, checked by hash (docs/wire.md)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.errors import BlockError, BlockMissing, MessageError
from agent.link.backoff import BLOCKS, Backoff
from agent.link.client import MAX_PAYLOAD_BYTES, Message, MqttLink, MqttSettings
from agent.link.messages import BlockRequest
from agent.link.pace import Pace
from agent.link.topics import block_data, block_requests
from agent.link.window import MAX_BYTES, Window
from agent.waiting import set_within, to_the_end

DIGEST_BYTES = 32
MAX_DATA_BYTES = MAX_PAYLOAD_BYTES - DIGEST_BYTES
MANY_WRONG = 16  # worth a line in the log, once a fetch
MAX_PENDING_BYTES = 2 * MAX_BYTES  # wait for the disk: all that was asked for, and what others did
BATCH = 4  # frames taken to the disk at once
MAX_EARLY = 1024  # frames kept, beside their bytes: each costs memory, however small it is

log = logging.getLogger(__name__)


def encode_frame(sha: str, data: bytes) -> bytes:
    """32 raw digest bytes and the block; without a block: "the server does not have it". BlockError when too large."""
    if len(data) > MAX_DATA_BYTES:
        raise BlockError(
            f"block {sha[:12]} has {len(data)} bytes; more than {MAX_DATA_BYTES} do not fit in a message"
        )
    digest = bytes.fromhex(sha)
    if len(digest) != DIGEST_BYTES:
        raise BlockError(f"{sha[:80]!r} is not a SHA-256")
    return digest + data


def decode_frame(frame: bytes) -> tuple[str, bytes]:
    """(digest in hex, block); the block is not checked. Raises MessageError when it is no frame."""
    if not DIGEST_BYTES <= len(frame) <= MAX_PAYLOAD_BYTES:
        raise MessageError(f"block frame: {len(frame)} bytes, not {DIGEST_BYTES} to {MAX_PAYLOAD_BYTES}")
    return frame[:DIGEST_BYTES].hex(), frame[DIGEST_BYTES:]


@dataclass(slots=True)
class Counters:
    """What a fetcher has seen: bytes of all frames, also of those that other nodes asked for; bytes of the blocks
    taken, and of those asked for once more; blocks taken and asked for, frames of no use, wrong ones."""

    bytes_received: int = 0
    bytes_useful: int = 0
    bytes_again: int = 0
    blocks: int = 0
    asked: int = 0
    connections: int = 0
    unwanted: int = 0
    wrong: int = 0

    def add(self, other: Counters) -> None:
        """Add another's to these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class BlockFetcher:
    """Fetches blocks over clean-start connections, one a package: a session would bring stale blocks.

    ``settings.client_id`` is followed by the package, so that two fetches do not push each other out.
    """

    def __init__(
        self,
        settings: MqttSettings,
        site: str,
        *,
        backoff: Backoff | None = None,
        counters: Counters | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.counters = counters or Counters()
        self._pace = pace or Pace(None)
        self._settings = settings
        self._site = site
        self._backoff = backoff

    def listen(self, package_digest: str) -> Feed:
        """A connection for this package, to be closed by the caller."""
        client_id = f"{self._settings.client_id}_{package_digest[:12]}"
        settings = replace(self._settings, client_id=client_id, clean_session=True)
        return Feed(settings, self._site, package_digest, self.counters, self._backoff, self._pace)

    async def fetch(
        self, package_digest: str, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]
    ) -> None:
        """``Feed.fetch`` over a connection that lives as long as that."""
        feed = self.listen(package_digest)
        try:
            await feed.fetch(wanted, deliver)
        finally:
            await feed.close()


class Feed:
    """The blocks of one package as they pass by, from the first fetch on.

    Those that come before or after the manifest wait for the fetch of blocks, up to a window's worth: other nodes have
    asked for what this one is about to ask for.
    """

    def __init__(
        self,
        settings: MqttSettings,
        site: str,
        package: str,
        counters: Counters,
        backoff: Backoff | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._site, self._package, self._counters = site, package, counters
        self._pace = pace or Pace(None)
        self._transfer: _Transfer | None = None
        self._before_manifest = False
        self._early: dict[bytes, bytes] = {}
        self._early_bytes = 0
        self._link = MqttLink(
            settings,
            on_message=self._receive,
            on_connect=self._connected,
            on_disconnect=self._disconnected,
            backoff=backoff or BLOCKS,
        )
        self._link.subscribe(block_data(site, package), 0)
        self._started = False

    async def fetch(self, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]) -> None:
        """Fetch ``wanted`` (digest → bytes; 0 = unknown, at most 1 MiB).

        ``deliver`` is called on another thread, one call at a time, never after this has ended. It checks the hash and
        raises BlockError when that is wrong: the block is then waited for again. Waits through lost connections and
        silent servers for as long as the caller does; cancel it at any time. Raises BlockMissing when the server says
        that it has not got one, BlockError when one cannot be carried, and whatever else ``deliver`` raises.
        """
        for sha, size in wanted.items():
            if not 0 <= size <= MAX_DATA_BYTES:
                raise BlockError(
                    f"block {sha[:12]} has {size} bytes; more than {MAX_DATA_BYTES} cannot be carried"
                )
        if not wanted:
            return
        transfer = self._transfer = _Transfer(
            self._site, self._package, wanted, deliver, self._counters, self._pace
        )
        self._before_manifest = set(wanted) == {self._package}
        if not self._before_manifest:
            early, self._early, self._early_bytes = self._early, {}, 0
            for frame in early.values():
                transfer.receive(frame, counted=True)
        if not self._started:
            self._started = True
            self._link.start()
        try:
            await transfer.run(self._link)
        finally:
            self._transfer = None

    async def close(self) -> None:
        """Disconnect."""
        await self._link.stop()

    def _connected(self) -> None:
        self._counters.connections += 1
        if self._transfer is not None:
            self._transfer.connected()

    def _disconnected(self, reason: str) -> None:
        if self._transfer is not None:
            self._transfer.disconnected(reason)

    def _receive(self, message: Message) -> None:
        frame = message.payload
        self._counters.bytes_received += len(frame)
        sha = frame[:DIGEST_BYTES]
        keep = self._before_manifest and sha.hex() != self._package
        if self._transfer is not None and not keep:
            self._transfer.receive(frame)
            return
        self._pace.pass_by(len(frame), time.monotonic())
        if self._may_keep(frame) and sha not in self._early:
            self._early[sha] = frame
            self._early_bytes += len(frame)

    def _may_keep(self, frame: bytes) -> bool:
        """Not what is no block: "the server does not have it" concerns whoever asked."""
        fits = len(self._early) < MAX_EARLY and self._early_bytes + len(frame) <= MAX_BYTES
        return fits and len(frame) > DIGEST_BYTES


class _Transfer:
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
