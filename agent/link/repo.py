"""Metadata of the TUF repository over MQTT: asked for by name, answered on a topic that all nodes share (docs/wire.md).

What arrives is not looked at: whoever asked verifies it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from agent.link.backoff import BLOCKS, Backoff
from agent.link.client import Message, MqttLink, MqttSettings
from agent.link.frames import Counters
from agent.link.messages import RepoRequest
from agent.link.pace import Pace
from agent.link.topics import metadata_data, metadata_requests
from agent.link.window import Window
from agent.waiting import set_within

LINGER_S = 5.0
MANY_ASKED = 4  # requests without an answer, about 14 s: worth a line in the log, once a file

log = logging.getLogger(__name__)


class MetadataFetcher:
    """One file at a time, over a clean-start connection that ends ``linger_s`` after the last: mostly the next is asked
    for at once. Only the file that is waited for is subscribed to, so that what other nodes ask for costs nothing.
    """

    def __init__(
        self,
        settings: MqttSettings,
        site: str,
        backoff: Backoff | None = None,
        *,
        counters: Counters | None = None,
        pace: Pace | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        self.counters = counters or Counters()
        self._settings = replace(settings, clean_session=True)
        self._site = site
        self._backoff = backoff or BLOCKS
        self._pace = pace or Pace(None)
        self._linger_s = linger_s
        self._turn = asyncio.Lock()
        self._link: MqttLink | None = None
        self._closer: asyncio.Task[None] | None = None
        self._asking: _Asking | None = None

    async def get(self, name: str, limit: int) -> bytes | None:
        """The bytes of a file, of one that is longer than ``limit`` only ``limit`` + 1; None when the repository has
        none. ValueError for what is no name of metadata.

        Asks again after time-outs like those of blocks and at each new connection, for as long as the caller waits:
        cancel it at any time.
        """
        asking = _Asking(self._site, name)
        async with self._turn:
            self._asking = asking
            try:
                data = await self._ask(self._opened(), asking)
            finally:
                self._asking = None
                if self._link is not None:
                    self._link.unsubscribe(asking.topic)
                self._end_later()
        return data[: limit + 1] or None

    async def close(self) -> None:
        """Disconnect."""
        if self._closer is not None:
            self._closer.cancel()
            await asyncio.wait({self._closer})
        await self._disconnect()

    async def _ask(self, link: MqttLink, asking: _Asking) -> bytes:
        link.subscribe(asking.topic, 0)
        while asking.data is None:
            asking.wake.clear()
            patience: float | None = None
            if link.is_connected:
                if asking.request(time.monotonic()):
                    # Lost with the connection at worst; a new one begins with the same request.
                    payload = RepoRequest(names=[asking.name]).encode()
                    link.publish(metadata_requests(self._site), payload, qos=0)
                    self.counters.asked += 1
                patience = asking.window.patience(time.monotonic())
            await set_within(asking.wake, patience)
        self.counters.bytes_useful += len(asking.data)
        return asking.data

    def _opened(self) -> MqttLink:
        if self._link is None:
            self._link = MqttLink(
                self._settings,
                on_message=self._receive,
                on_connect=self._connected,
                on_disconnect=self._disconnected,
                backoff=self._backoff,
            )
            self._link.start()
        return self._link

    def _end_later(self) -> None:
        async def end() -> None:
            await asyncio.sleep(self._linger_s)
            async with self._turn:
                await self._disconnect()

        if self._closer is not None:  # it sleeps, or waits for the turn that this one has
            self._closer.cancel()
        self._closer = asyncio.get_running_loop().create_task(end())

    async def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.stop()

    def _connected(self) -> None:
        self.counters.connections += 1
        if self._asking is not None:
            self._asking.window.restart()
            self._asking.wake.set()

    def _disconnected(self, reason: str) -> None:
        if self._asking is not None:
            log.warning("repository metadata %s: %s", self._asking.name, reason)

    def _receive(self, message: Message) -> None:
        self.counters.bytes_received += len(message.payload)
        self._pace.pass_by(len(message.payload), time.monotonic())
        asking = self._asking
        # The server retains nothing: what a broker kept is of another day.
        if asking is None or message.retain or message.topic != asking.topic or asking.data is not None:
            self.counters.unwanted += 1
            return
        asking.data = message.payload
        asking.wake.set()


class _Asking:
    """A file that is waited for; ``data`` once it is here, empty when there is none."""

    def __init__(self, site: str, name: str) -> None:
        self.name, self.topic = name, metadata_data(site, name)
        self.window = Window({name: 0})
        self.wake = asyncio.Event()
        self.data: bytes | None = None
        self._asked = 0

    def request(self, now: float) -> bool:
        """Whether it is to be asked for now, or again."""
        due = bool(self.window.request(now))
        self._asked += due
        if due and self._asked == MANY_ASKED:
            log.warning(
                "repository metadata %s: no answer yet; check that overlaid fleet serve runs and, in the broker's "
                "access list, that this node may receive %s",
                self.name,
                self.topic,
            )
        return due
