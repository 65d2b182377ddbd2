"""Links to the broker: one persistent session for state and commands, clean-start ones while blocks and metadata are
fetched and while bindings run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from agent.app.downloads import LOOK_S, DownloadHours
from agent.config import Config
from agent.errors import ConfigError
from agent.link.blocks import BlockFetcher, Counters, Feed
from agent.link.client import MqttSettings
from agent.link.pace import Pace
from agent.link.repo import MetadataFetcher
from agent.link.topics import Target
from agent.types import MAX_MODELS, Delivery
from agent.waiting import set_within

LINGER_S = 5.0
MAX_PACKAGES = 2 * MAX_MODELS  # whose costs are known one by one; none of those that wait is forgotten
PARALLEL_FETCHES = 2  # each may have a window of 4 MiB in memory


def node_target(config: Config) -> Target:
    return Target(config.node.site, config.node.name)


def group_targets(config: Config) -> tuple[Target, ...]:
    return tuple(Target(config.node.site, group, group=True) for group in config.node.groups)


def mqtt_settings(config: Config, purpose: str = "") -> MqttSettings:
    """Settings of the control session, or of a clean one for another purpose; ConfigError without [mqtt]."""
    mqtt = config.mqtt
    if mqtt is None:
        raise ConfigError("no [mqtt] section: this node has no broker")
    return MqttSettings(
        host=mqtt.host,
        port=mqtt.port,
        # NATS refuses dots in client ids; names hold no underscore, so this is unambiguous.
        client_id="_".join(("overlaid", config.node.site, config.node.name, *([purpose] if purpose else []))),
        username=mqtt.username,
        password=mqtt.read_password(),
        ca=mqtt.ca,
        cert=mqtt.cert,
        key=mqtt.key,
        keepalive_s=mqtt.keepalive_s,
        # A persistent session there would bring stale blocks, or what sensors said long ago, after a reconnect.
        clean_session=bool(purpose),
    )


@dataclass(slots=True)
class _Package:
    """What fetching one package cost, and what it waits for."""

    counters: Counters = field(default_factory=Counters)
    waits_for: str = ""
    waited_s: float = 0.0
    since: float = 0.0
    hurried: bool = False

    def wait_for(self, what: str) -> None:
        """Wait for ``what`` from now on; for nothing when it is empty."""
        now = time.monotonic()
        if self.waits_for:
            self.waited_s += now - self.since
        self.waits_for, self.since = what, now

    def delivery(self) -> Delivery:
        seen, waiting_s = self.counters, time.monotonic() - self.since if self.waits_for else 0.0
        return Delivery(
            seen.bytes_received,
            seen.bytes_useful,
            seen.bytes_again,
            seen.wrong,
            self.waits_for,
            self.waited_s + waiting_s,
        )


class WireSource:
    """Blocks from the operator's server, over a connection that lives as long as the fetch, that of a manifest a little
    longer: its blocks are asked for next, and by then may pass by already, for other nodes of the group.

    Outside the download hours there is no connection for blocks, so that nothing passes by either. Metadata of the
    repository, some KB, waits for nothing. ``clock`` and ``proven``: see ``DownloadHours``.
    """

    keep_newer = False  # older metadata than this node has seen is an attack here

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.time,
        proven: Callable[[], float] | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._config = config
        self.turn = (
            contextlib.nullcontext()
        )  # fetches take turns by themselves: what waits for its hours takes none
        self._turns = asyncio.Semaphore(PARALLEL_FETCHES)
        self._hours = DownloadHours(config.delivery.spans, clock, proven or clock)
        self._look_s = look_s if self._hours.any else None
        self._hurry = asyncio.Event()
        self._pace = Pace(config.delivery.bytes_per_s)
        self._packages: OrderedDict[str, _Package] = OrderedDict()
        self._forgotten = Counters()  # of packages that are not among them any more
        self._lingering: dict[str, Feed] = {}
        self._closers: set[asyncio.Task[None]] = set()
        self._metadata: MetadataFetcher | None = None
        self._metadata_counters = Counters()
        self.changed: Callable[[], None] = lambda: None  # what a package waits for

    async def metadata(self, name: str, limit: int) -> bytes | None:
        """A file of the site's TUF repository, not verified; None when the repository has none. Waits through lost
        connections and silent servers (the caller has the deadline). More than ``limit`` bytes: it is longer.
        """
        if self._metadata is None:
            settings = mqtt_settings(self._config, "repo")
            self._metadata = MetadataFetcher(
                settings, self._config.node.site, counters=self._metadata_counters, pace=self._pace
            )
        return await self._metadata.get(name, limit)

    async def fetch(
        self, digest: str, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]
    ) -> None:
        left, lingers = dict(wanted), set(wanted) == {digest}

        def keep(sha: str, data: bytes) -> None:
            deliver(sha, data)
            left.pop(sha, None)

        while left:
            await self._opened(digest)
            async with self._turn(digest):
                await self._fetch(digest, left, keep, lingers)

    def delivery(self, digest: str) -> Delivery:
        """Of one package."""
        package = self._packages.get(digest)
        return package.delivery() if package else Delivery()

    @property
    def total(self) -> Delivery:
        """Of all packages and the repository's metadata since the daemon began."""
        counters = Counters()
        packages = (package.counters for package in self._packages.values())
        for each in (self._forgotten, self._metadata_counters, *packages):
            counters.add(each)
        return _Package(counters).delivery()

    def hurry(self, digest: str) -> None:
        """Download this package now, whatever the hour."""
        self._package(digest).hurried = True
        self._hurry.set()

    async def close(self) -> None:
        """Close what lingers."""
        if self._metadata is not None:
            await self._metadata.close()
        for task in self._closers:
            task.cancel()
        await asyncio.gather(*(feed.close() for feed in self._lingering.values()))
        self._lingering.clear()

    async def _opened(self, digest: str) -> None:
        """Wait until the package may be asked for."""
        package = self._package(digest)
        try:
            while why := self._closed(package):
                self._wait_for(package, why)
                self._hurry.clear()
                await set_within(self._hurry, self._look_s)
        finally:
            self._wait_for(package, "")

    @contextlib.asynccontextmanager
    async def _turn(self, digest: str) -> AsyncIterator[None]:
        package = self._package(digest)
        if self._turns.locked():
            self._wait_for(package, "waits for other downloads")
        try:
            await self._turns.acquire()
        finally:
            self._wait_for(package, "")
        try:
            yield
        finally:
            self._turns.release()

    def _wait_for(self, package: _Package, what: str) -> None:
        if what != package.waits_for:
            package.wait_for(what)
            self.changed()

    def _closed(self, package: _Package) -> str:
        why = self._hours.closed()
        return "" if package.hurried else why

    async def _fetch(
        self, digest: str, left: Mapping[str, int], keep: Callable[[str, bytes], None], lingers: bool
    ) -> None:
        """Until all is here or the hours are over; what is under way then is lost."""
        package = self._package(digest)
        feed = self._lingering.pop(digest, None) or self._listen(digest)
        task = asyncio.get_running_loop().create_task(feed.fetch(dict(left), keep))
        try:
            while not task.done() and not self._closed(package):
                await asyncio.wait({task}, timeout=self._look_s)
            if task.done():
                task.result()
                if lingers:
                    self._linger(digest, feed)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._lingering.get(digest) is not feed:
                await feed.close()

    def _package(self, digest: str) -> _Package:
        package = self._packages.setdefault(digest, _Package())
        self._packages.move_to_end(digest)
        while len(self._packages) > MAX_PACKAGES:
            _, oldest = self._packages.popitem(last=False)
            self._forgotten.add(oldest.counters)
        return package

    def _listen(self, digest: str) -> Feed:
        settings = mqtt_settings(self._config, "data")
        fetcher = BlockFetcher(
            settings,
            self._config.node.site,
            counters=self._package(digest).counters,
            pace=self._pace,
        )
        return fetcher.listen(digest)

    def _linger(self, digest: str, feed: Feed) -> None:
        async def close_later() -> None:
            await asyncio.sleep(LINGER_S)
            if self._lingering.get(digest) is feed:
                del self._lingering[digest]
                await feed.close()

        self._lingering[digest] = feed
        task = asyncio.get_running_loop().create_task(close_later())
        self._closers.add(task)
        task.add_done_callback(self._closers.discard)
