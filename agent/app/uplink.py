"""Telemetry for the operator: a summary batch per interval, through the outbox."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from agent.errors import LinkError
from agent.link.messages import TelemetryBatch
from agent.link.outbox import Outbox
from agent.link.topics import Target
from agent.telemetry import queries

log = logging.getLogger("link")


class Uplink:
    """Publishes ``telemetry/summary``: latency per model and power since the last batch."""

    def __init__(self, node: Target, boot_id: str, database: Path, outbox: Outbox, every_s: float) -> None:
        self._node, self._boot_id, self._database = node, boot_id, database
        self._outbox, self._every_s = outbox, every_s

    async def run(self) -> None:
        """Send one batch each interval that saw any rows, until cancelled."""
        sequence, since = 0, time.time()
        while True:
            await asyncio.sleep(self._every_s)
            now = time.time()
            rows = await asyncio.to_thread(queries.summary_rows, self._database, since)
            since = now
            if not rows:
                continue
            sequence += 1
            batch = TelemetryBatch(boot_id=self._boot_id, sequence=sequence, time=now, rows=rows[:1000])
            try:
                self._outbox.put(self._node.telemetry("summary"), batch.encode(), priority=0)
            except (
                LinkError
            ) as error:  # a full disk: these rows are in telemetry.db or lost, the next ones may go
                log.warning("%s", error)
