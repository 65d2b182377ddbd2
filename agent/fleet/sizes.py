"""Does the broker carry blocks? One that limits messages drops larger ones without a word, and nodes wait in vain."""

from __future__ import annotations

import asyncio

from agent.errors import LinkError
from agent.fleet.log import Log
from agent.link.client import MqttLink
from agent.link.frames import DIGEST_BYTES
from agent.link.topics import block_data
from agent.waiting import set_within

SMALL_KIB, USUAL_KIB = 64, 256
WAIT_S = 20.0
TRIES = 2
_NO_PACKAGE = "0" * 64


class SizeProbe:
    """Once, sends frames of 64 and of 256 KiB to itself over ``link``, and says when only the small one comes back."""

    def __init__(self, site: str, link: MqttLink, log: Log, wait_s: float = WAIT_S) -> None:
        self.topic = block_data(site, _NO_PACKAGE)
        self._link, self._log, self._wait_s = link, log, wait_s
        self._heard: set[int] = set()
        self._whole = asyncio.Event()
        link.subscribe(self.topic, 0)

    def heard(self, payload: bytes) -> None:
        """A message on ``topic``."""
        self._heard.add(len(payload))
        if len(payload) >= _size(USUAL_KIB):
            self._whole.set()

    async def run(self) -> None:
        """Never ends: it is one of the server's jobs."""
        for _ in range(TRIES):  # a limit may also end the connection
            await self._link.connected()
            await self._send()
            if self._whole.is_set():
                break
        if not self._whole.is_set() and _size(SMALL_KIB) in self._heard:
            self._log(
                "broker-limit",
                f"{self._link.settings.where} does not carry messages of {USUAL_KIB} KiB: raise its limit (mosquitto: "
                f"message_size_limit), or pack models with --block-kib {SMALL_KIB}; larger blocks do not arrive",
            )
        await asyncio.Event().wait()

    async def _send(self) -> None:
        for kib in (SMALL_KIB, USUAL_KIB):
            try:
                await self._link.publish(self.topic, bytes(_size(kib)), qos=0)
            except LinkError:
                return
        await set_within(self._whole, self._wait_s)


def _size(kib: int) -> int:
    return DIGEST_BYTES + kib * 1024
