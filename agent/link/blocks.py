"""Blocks over MQTT: asked for by digest, answered on a topic that all nodes share, checked by hash (docs/wire.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.errors import BlockError
from agent.link.backoff import BLOCKS, Backoff
from agent.link.client import Message, MqttLink, MqttSettings
from agent.link.frames import DIGEST_BYTES, MAX_DATA_BYTES, Counters, decode_frame, encode_frame
from agent.link.pace import Pace
from agent.link.topics import block_data
from agent.link.transfer import Transfer
from agent.link.window import MAX_BYTES

MAX_EARLY = 1024  # frames kept, beside their bytes: each costs memory, however small it is

__all__ = [
    "DIGEST_BYTES",
    "MAX_DATA_BYTES",
    "MAX_EARLY",
    "BlockFetcher",
    "Counters",
    "Feed",
    "decode_frame",
    "encode_frame",
]


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
        self._transfer: Transfer | None = None
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
        transfer = self._transfer = Transfer(
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
