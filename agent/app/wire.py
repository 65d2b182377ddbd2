"""Links to the broker: one persistent session for state and commands, clean-start ones while blocks are fetched and
while bindings run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agent.config import Config
from agent.errors import ConfigError
from agent.link.blocks import BlockFetcher, Counters, Feed
from agent.link.client import MqttSettings
from agent.link.topics import Target

LINGER_S = 5.0
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


class WireSource:
    """Blocks from the operator's server, over a connection that lives as long as the fetch, that of a manifest a little
    longer: its blocks are asked for next, and by then may pass by already, for other nodes of the group."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.turn = asyncio.Semaphore(PARALLEL_FETCHES)
        self.counters = Counters()  # of all fetches
        self._lingering: dict[str, Feed] = {}
        self._closers: set[asyncio.Task[None]] = set()

    async def fetch(
        self, digest: str, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]
    ) -> None:
        feed = self._lingering.pop(digest, None) or self._listen(digest)
        try:
            await feed.fetch(wanted, deliver)
            if set(wanted) == {digest}:
                self._linger(digest, feed)
        finally:
            if self._lingering.get(digest) is not feed:
                await feed.close()

    async def close(self) -> None:
        """Close what lingers."""
        for task in self._closers:
            task.cancel()
        await asyncio.gather(*(feed.close() for feed in self._lingering.values()))
        self._lingering.clear()

    def _listen(self, digest: str) -> Feed:
        settings = mqtt_settings(self._config, "data")
        return BlockFetcher(settings, self._config.node.site, counters=self.counters).listen(digest)

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
