"""The one writer of telemetry.db: a bounded queue in memory and a thread with its own connection.

The daemon never waits for the disk: rows are queued, written in batches of 100 or after a second, and kept while the
disk is full or read-only. What does not fit the queue is dropped oldest first and counted.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.errors import TelemetryError, one_line
from agent.histogram import Histogram
from agent.telemetry.retention import BULK, Cap
from agent.telemetry.schema import open_for_writing
from agent.types import Candidate, Phase, Placement, PowerSample, State, to_jsonable

log = logging.getLogger("telemetry")

BATCH_ROWS = 100
BATCH_S = 1.0
RETRY_S = 5.0
QUEUE_ROWS = 5000
MAX_TEXT = 500
DAMAGED = ("file is not a database", "malformed")

Row = tuple[str, tuple[Any, ...]]  # table, values


class Telemetry:
    """Takes rows from any thread. ``problem`` says why nothing is recorded at present (None: all is well);
    ``dropped`` counts rows that were lost since the start."""

    def __init__(
        self, path: Path, max_mb: int, *, clock: Callable[[], float] = time.time, retry_s: float = RETRY_S
    ) -> None:
        self.path = path
        self.problem: str | None = None
        self.dropped = 0
        self._clock = clock
        self._retry_s = retry_s
        self._file = _File(path, Cap(max_mb))
        self._queues: dict[bool, deque[Row]] = {True: deque(), False: deque()}  # by "is bulk"
        self._wake = threading.Condition()
        self._flush_wanted = self._flush_done = 0
        self._closing = False
        self._failing_since: float | None = None
        self._told_dropped = 0
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def event(self, kind: str, text: str, model: str | None = None) -> None:
        """Something worth telling: ``kind`` is one word (``restart``), ``text`` a line for people."""
        self._put("events", kind, model, _line(text))

    def deployment(
        self, model: str, version: str, digest: str, state: State, phase: Phase | None, why: str
    ) -> None:
        """A step of a deployment."""
        self._put(
            "deployments", model, version, digest, state.value, phase.value if phase else None, _line(why)
        )

    def placement(self, placement: Placement) -> None:
        """A decision with every candidate's verdict."""
        self._put("placements", placement.model, json.dumps(to_jsonable(placement)))

    def power(self, samples: Sequence[PowerSample]) -> None:
        """Average watts per rail; samples that are not finite numbers are left out."""
        for sample in samples:
            if math.isfinite(sample.watts) and math.isfinite(sample.time):
                self._put("power", sample.rail, sample.watts, sample.tag, at=sample.time)

    def latency(
        self, model: str, version: str, candidate: Candidate, histogram: Histogram, errors: int
    ) -> None:
        """What was served since the last call; nothing is stored when that is nothing."""
        if histogram.total or errors:
            where = (candidate.variant, candidate.backend, candidate.device)
            pairs = json.dumps(histogram.pairs(), separators=(",", ":"))
            self._put("latency", model, version, *where, histogram.total, errors, pairs)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Write what is queued now. False when it could not be written (see ``problem``) or took too long."""
        with self._wake:
            self._flush_wanted += 1
            ticket = self._flush_wanted
            self._wake.notify_all()
            done = self._wake.wait_for(lambda: self._flush_done >= ticket, timeout_s)
            return done and self.problem is None

    def close(self) -> None:
        """Write what is queued, once, and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout=10.0)

    def _put(self, table: str, *values: Any, at: float | None = None) -> None:
        row = (table, (self._clock() if at is None else at, *map(_storable, values)))
        with self._wake:
            self._append(row)
            if self._queued() in (1, BATCH_ROWS):
                self._wake.notify_all()

    def _append(self, row: Row) -> None:
        queue = self._queues[row[0] in BULK]
        if len(queue) >= QUEUE_ROWS:
            queue.popleft()
            self.dropped += 1
        queue.append(row)

    def _queued(self) -> int:
        return len(self._queues[True]) + len(self._queues[False])

    # Everything below runs on the writer's thread.

    def _run(self) -> None:
        closing = False
        while not closing:
            closing, ticket = self._wait()
            self._write_all()
            with self._wake:
                self._flush_done = ticket
                self._wake.notify_all()
        self._file.close()

    def _wait(self) -> tuple[bool, int]:
        def urgent() -> bool:
            return self._closing or self._flush_wanted > self._flush_done

        with self._wake:
            if self.problem:
                self._wake.wait_for(urgent, self._retry_s)
            else:
                self._wake.wait_for(lambda: self._queued() > 0 or urgent())
                self._wake.wait_for(lambda: self._queued() >= BATCH_ROWS or urgent(), BATCH_S)
            return self._closing, self._flush_wanted

    def _write_all(self) -> None:
        while batch := self._take():
            try:
                self._file.write(batch)
            except (sqlite3.Error, OSError, TelemetryError) as error:
                self._put_back(batch)
                self._failed(error)
                return
            self._healed()

    def _take(self) -> list[Row]:
        with self._wake:
            batch: list[Row] = []
            for queue in self._queues.values():
                while queue and len(batch) < BATCH_ROWS:
                    batch.append(queue.popleft())
            return batch

    def _put_back(self, batch: Sequence[Row]) -> None:
        with self._wake:
            for row in reversed(batch):
                queue = self._queues[row[0] in BULK]
                if len(queue) < QUEUE_ROWS:
                    queue.appendleft(row)
                else:
                    self.dropped += 1

    def _failed(self, error: Exception) -> None:
        text = one_line(error)
        if self.problem is None:
            self._failing_since = self._clock()
            log.warning("telemetry is not recorded: %s; it goes on by itself when that is mended", text)
        self.problem = text

    def _healed(self) -> None:
        """Leave one event about a time in which rows were not written or were lost."""
        lost, problem = self.dropped - self._told_dropped, self.problem
        if problem is None and (lost == 0 or self._queued() > 0):
            return
        began, self._failing_since, self.problem = self._failing_since, None, None
        self._told_dropped += lost
        waited = f"not written for {self._clock() - began:.0f} s ({problem}); " if began is not None else ""
        log.warning("telemetry is recorded again: %s%d rows lost", waited, lost)
        self.event("telemetry", f"{waited}{lost} rows lost")


class _File:
    """The database as the writer sees it: opened when first needed and again after an error."""

    def __init__(self, path: Path, cap: Cap) -> None:
        self._path = path
        self._cap = cap
        self._connection: sqlite3.Connection | None = None

    def write(self, rows: Sequence[Row]) -> None:
        """Keep the file within its cap, then insert rows in one transaction: all or nothing."""
        try:
            if self._connection is None:
                self._connection = open_for_writing(self._path, self._cap.wal_pages)
            self._cap.enforce(self._connection)
            self._insert(self._connection, rows)
        except (sqlite3.Error, OSError, TelemetryError) as error:
            self.close()
            if isinstance(error, sqlite3.DatabaseError) and any(sign in str(error) for sign in DAMAGED):
                self._set_aside(error)
            raise

    def _insert(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for table, values in rows:
            marks = ", ".join("?" * len(values))
            # The first column, id, is given by SQLite.
            connection.execute(f"INSERT INTO {table} VALUES (NULL, {marks})", values)
        connection.execute("COMMIT")

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_name(self._path.name + ".damaged")
        log.warning("%s is damaged (%s): kept as %s, a new one begins", self._path, error, aside)
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_TEXT]


def _storable(value: Any) -> Any:
    # Names of files and sensors may hold bytes that are not UTF-8; SQLite would refuse the row.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
