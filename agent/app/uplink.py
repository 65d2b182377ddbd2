"""Telemetry for the operator: what was recorded, summed up each interval, through the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from agent.errors import LinkError, TelemetryError
from agent.link.messages import TelemetryBatch
from agent.link.outbox import Outbox
from agent.link.spool import Priority
from agent.link.topics import Target
from agent.telemetry import queries

log = logging.getLogger("link")
BATCH_ROWS = 400  # of some 250 bytes each: a third of what a message may have
POSITION = "telemetry position"


class Uplink:
    """Publishes ``telemetry/summary``: latency per model and power since the last batch, also of an earlier boot."""

    def __init__(self, node: Target, boot_id: str, database: Path, outbox: Outbox, every_s: float) -> None:
        self._topic, self._boot_id, self._database = node.telemetry("summary"), boot_id, database
        self._outbox, self._every_s = outbox, every_s
        self._position: queries.Position | None = None

    async def run(self) -> None:
        """Queue what was recorded each interval, until cancelled."""
        with contextlib.suppress(LinkError):
            await self._begin()
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._sum_up()
            except (LinkError, TelemetryError) as error:  # the next batch has these rows too
                log.warning("no telemetry for the operator yet: %s", error)

    async def _begin(self) -> queries.Position:
        """Where the last batch ended, or, before the first one, now: what is older than the broker stays here."""
        if self._position is None:
            self._position = self._outbox.note(POSITION)
        if self._position is None:
            try:
                self._position = await asyncio.to_thread(queries.newest, self._database)
            except TelemetryError:  # nothing was ever recorded
                self._position = {}
        return self._position

    async def _sum_up(self) -> None:
        rows, upto = await asyncio.to_thread(queries.summary_rows, self._database, await self._begin())
        if not rows:
            return
        parts = [rows[at : at + BATCH_ROWS] for at in range(0, len(rows), BATCH_ROWS)]
        # With the position in one transaction: each row counts in one batch, whatever happens in between.
        self._outbox.append(self._topic, parts, self._encode, Priority.TELEMETRY, {POSITION: upto})
        self._position = upto

    def _encode(self, series: str, sequence: int, rows: list[dict[str, Any]]) -> bytes:
        batch = TelemetryBatch(
            series=series, boot_id=self._boot_id, sequence=sequence, time=time.time(), rows=rows
        )
        return batch.encode()
