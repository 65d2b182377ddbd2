"""Messages that must reach the operator, kept in ``outbox.db`` until the broker has acknowledged them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from agent.errors import LinkError
from agent.link.client import MAX_PAYLOAD_BYTES, MqttLink

BATCH = 32  # messages under way at once

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    priority INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_value ON outbox (priority, id);
"""

RETRY_S = 10.0

log = logging.getLogger(__name__)


class Outbox:
    """At least once, in the order of ``put``. Used from one thread, the event loop's.

    ``max_rows`` bounds what waits: beyond it the oldest rows of the lowest priority are dropped and counted in
    ``dropped``. Raises LinkError when the database cannot be used.
    """

    def __init__(self, path: Path, max_rows: int) -> None:
        self.dropped = 0
        self._max_rows = max_rows
        self._filled = asyncio.Event()
        self._path = path
        try:
            self._db = sqlite3.connect(path, timeout=10)
        except sqlite3.Error as error:
            raise self._problem(error) from error
        try:
            self._open()
        except sqlite3.Error as error:
            self._db.close()
            raise self._problem(error) from error

    def _open(self) -> None:
        # Exclusive: no index file of the write-ahead log. Opening an existing file must not write (full disk).
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA synchronous = FULL")
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'outbox'").fetchone():
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
        self._rows = int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def __len__(self) -> int:
        return self._rows

    def put(self, topic: str, payload: bytes, priority: int = 0) -> None:
        """Keep a message; it is on the disk when this returns. Higher ``priority`` is dropped later."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise LinkError(
                f"{topic[:200]}: {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES} in a message"
            )
        try:
            with self._db:
                self._db.execute(
                    "INSERT INTO outbox (topic, payload, priority) VALUES (?, ?, ?)",
                    (topic, payload, priority),
                )
                excess = max(0, self._rows + 1 - self._max_rows)
                if excess:
                    self._db.execute(
                        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY priority, id LIMIT ?)",
                        (excess,),
                    )
        except sqlite3.Error as error:
            raise self._problem(error) from error
        self._rows += 1 - excess
        self.dropped += excess
        self._filled.set()

    async def run(self, link: MqttLink) -> None:
        """Send what waits, and what comes, until cancelled. A message under way then is sent again by the next run.

        A disk that refuses is waited for: what was sent but could not be deleted may be sent twice.
        """
        while True:
            try:
                await self._send(link)
            except LinkError as error:
                log.error("%s", error)
                await asyncio.sleep(RETRY_S)

    async def _send(self, link: MqttLink) -> None:
        while True:
            await link.connected()
            self._filled.clear()
            rows = self._oldest()
            if not rows:
                await self._filled.wait()
                continue
            futures = [link.publish(topic, payload, qos=1) for _, topic, payload in rows]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            done = [row[0] for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
            self._delete(done)
            if len(done) < len(rows):
                await asyncio.sleep(1.0)  # stopped, or other messages fill the link

    def close(self) -> None:
        self._db.close()

    def _oldest(self) -> list[tuple[int, str, bytes]]:
        try:
            return self._db.execute(
                "SELECT id, topic, payload FROM outbox ORDER BY id LIMIT ?", (BATCH,)
            ).fetchall()
        except sqlite3.Error as error:
            raise self._problem(error) from error

    def _delete(self, ids: Sequence[int]) -> None:
        try:
            with self._db:
                gone = self._db.executemany(
                    "DELETE FROM outbox WHERE id = ?", [(one,) for one in ids]
                ).rowcount
        except sqlite3.Error as error:
            raise self._problem(error) from error
        self._rows -= max(0, gone)

    def _problem(self, error: sqlite3.Error) -> LinkError:
        return LinkError(
            f"the outbox in {self._path} cannot be used: {error}; check the disk and its permissions"
        )
