"""Blocks over MQTT: asked for by digest, answered on a topic that all nodes share, checked by hash (docs/wire.md)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent.errors import BlockError, BlockMissing, MessageError
from agent.link.backoff import Backoff
from agent.link.client import MAX_PAYLOAD_BYTES, Message, MqttLink, MqttSettings
from agent.link.messages import BlockRequest
from agent.link.topics import block_data, block_requests
from agent.link.window import MAX_BYTES, Window
from agent.waiting import set_within

DIGEST_BYTES = 32
MAX_DATA_BYTES = MAX_PAYLOAD_BYTES - DIGEST_BYTES
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
    """What a fetcher has seen: bytes of all frames, blocks taken and asked for, frames of no use, wrong ones."""

    bytes_received: int = 0
    blocks: int = 0
    asked: int = 0
    connections: int = 0
    unwanted: int = 0
    wrong: int = 0


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
    ) -> None:
        self.counters = counters or Counters()
        self._settings = settings
        self._site = site
        self._backoff = backoff

    def listen(self, package_digest: str) -> Feed:
        """A connection for this package, to be closed by the caller."""
        client_id = f"{self._settings.client_id}_{package_digest[:12]}"
        settings = replace(self._settings, client_id=client_id, clean_session=True)
        return Feed(settings, self._site, package_digest, self.counters, self._backoff)

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
        backoff: Backoff | None,
    ) -> None:
        self._site, self._package, self._counters = site, package, counters
        self._transfer: _Transfer | None = None
        self._before_manifest = False
        self._early: dict[bytes, bytes] = {}
        self._early_bytes = 0
        self._link = MqttLink(
            settings,
            on_message=self._receive,
            on_connect=self._connected,
            on_disconnect=self._disconnected,
            backoff=backoff,
        )
        self._link.subscribe(block_data(site, package), 0)
        self._started = False

    async def fetch(self, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]) -> None:
        """Fetch ``wanted`` (digest → bytes; 0 = unknown, at most 1 MiB), calling ``deliver`` on the loop once for each.

        Waits through lost connections and silent servers for as long as the caller does; cancel it at any time.
        Raises BlockMissing when the server says that it has not got one, BlockError when one cannot be carried, and
        whatever ``deliver`` raises.
        """
        for sha, size in wanted.items():
            if not 0 <= size <= MAX_DATA_BYTES:
                raise BlockError(
                    f"block {sha[:12]} has {size} bytes; more than {MAX_DATA_BYTES} cannot be carried"
                )
        if not wanted:
            return
        transfer = self._transfer = _Transfer(self._site, self._package, wanted, deliver, self._counters)
        self._before_manifest = set(wanted) == {self._package}
        if not self._before_manifest:
            early, self._early, self._early_bytes = self._early, {}, 0
            for frame in early.values():
                transfer.receive(frame)
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
        elif self._may_keep(frame) and sha not in self._early:
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
    ) -> None:
        self._package = package
        self._requests = block_requests(site, package)
        self._sizes = dict(wanted)
        self._window = Window(wanted)
        self._deliver = deliver
        self._counters = counters
        self._wake = asyncio.Event()
        self._error: Exception | None = None

    async def run(self, link: MqttLink) -> None:
        while self._error is None and len(self._window):
            self._wake.clear()
            patience: float | None = None
            if link.is_connected:
                blocks = self._window.request(time.monotonic())
                if blocks:
                    self._counters.asked += len(blocks)
                    # Lost with the connection at worst; a new one begins with the same request.
                    link.publish(self._requests, BlockRequest(blocks=blocks).encode(), qos=0)
                patience = self._window.patience(time.monotonic())
            await set_within(self._wake, patience)
        if self._error is not None:
            raise self._error

    def connected(self) -> None:
        self._window.restart()
        self._wake.set()

    def disconnected(self, reason: str) -> None:
        log.warning("package %s: %d blocks to go; %s", self._package[:12], len(self._window), reason)

    def receive(self, frame: bytes) -> None:
        if self._error is not None:
            return
        try:
            self._take(frame)
        except Exception as error:  # whatever the caller's deliver raises ends its fetch
            self._error = error
        self._wake.set()

    def _take(self, frame: bytes) -> None:
        try:
            sha, data = decode_frame(frame)
        except MessageError:
            self._counters.wrong += 1
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
        if (size and len(data) != size) or hashlib.sha256(data).hexdigest() != sha:
            self._counters.wrong += 1
            return
        self._deliver(sha, data)
        self._counters.blocks += 1
        self._window.arrived(sha, time.monotonic())
