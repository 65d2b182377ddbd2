"""What must reach the operator once: results by id, batches by number, ends of deployments by the node's own id.

Nodes and brokers deliver at least once. Each function stores a message in ``operator.db``, inside the caller's
transaction, and says whether it is new.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import MessageError
from agent.fleet.tally import Gap, Tally, beginning
from agent.fleet.views import Heard
from agent.link.messages import DeploymentEnd, Result, TelemetryBatch, parse

ROWS = 10_000  # of results and of ends of deployments
MAX_SERIES = 4  # of a stream; a node begins a new one when its outbox was lost
SCHEMA = """
CREATE TABLE IF NOT EXISTS results (row INTEGER PRIMARY KEY, node TEXT NOT NULL, id TEXT NOT NULL, time REAL NOT NULL,
  payload TEXT NOT NULL, UNIQUE (node, id));
CREATE TABLE IF NOT EXISTS ends (row INTEGER PRIMARY KEY, node TEXT NOT NULL, id INTEGER NOT NULL, ended REAL NOT NULL,
  time REAL NOT NULL, payload TEXT NOT NULL, UNIQUE (node, id, ended));
CREATE TABLE IF NOT EXISTS streams (node TEXT NOT NULL, stream TEXT NOT NULL, series TEXT NOT NULL, time REAL NOT NULL,
  last INTEGER NOT NULL, received INTEGER NOT NULL, duplicates INTEGER NOT NULL, gaps TEXT NOT NULL,
  given_up INTEGER NOT NULL, PRIMARY KEY (node, stream, series));
"""


@dataclass(frozen=True, slots=True)
class Stream:
    """How far a stream of a node has come; ``time``: when a batch of the series came last (Unix seconds)."""

    name: str
    series: str
    time: float
    tally: Tally


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a message brought that was not known: whether it itself is new, numbers that are now missing, ends of
    deployments."""

    new: bool
    gap: Gap | None = None
    ends: tuple[DeploymentEnd, ...] = ()


def take(db: sqlite3.Connection, heard: Heard) -> Arrival:
    """A result or a batch. A row of a batch that is no end of a deployment is left out."""
    if isinstance(heard.message, Result):
        values = heard.node, heard.message.id, heard.time, heard.text()
        return Arrival(_once(db, "results (node, id, time, payload)", *values))
    assert isinstance(heard.message, TelemetryBatch)
    new, gap = _count(db, heard, heard.message)
    return Arrival(new, gap, tuple(_ends(db, heard, heard.message)) if heard.stream == "events" else ())


def _once(db: sqlite3.Connection, columns: str, *values: object) -> bool:
    table = columns.partition(" ")[0]
    marks = ", ".join("?" * len(values))
    cursor = db.execute(f"INSERT INTO {columns} VALUES ({marks}) ON CONFLICT DO NOTHING", values)
    if cursor.rowcount < 1:
        return False
    db.execute(f"DELETE FROM {table} WHERE row <= ?", (int(cursor.lastrowid or 0) - ROWS,))
    return True


def _ends(db: sqlite3.Connection, heard: Heard, batch: TelemetryBatch) -> Iterator[DeploymentEnd]:
    for row in batch.rows:
        text = json.dumps(row)
        try:
            end = parse(DeploymentEnd, text.encode())
        except MessageError:
            continue
        if _once(
            db, "ends (node, id, ended, time, payload)", heard.node, end.id, end.ended, heard.time, text
        ):
            yield end


def _count(db: sqlite3.Connection, heard: Heard, batch: TelemetryBatch) -> tuple[bool, Gap | None]:
    before = {stream.series: stream.tally for stream in streams(db, heard.node, heard.stream)}
    tally = before.get(batch.series) or beginning(batch.sequence, bool(before))
    after, new = tally.after(batch.sequence)
    values = (after.last, after.received, after.duplicates, json.dumps(after.gaps), after.given_up)
    key = heard.node, heard.stream, batch.series
    db.execute(
        "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*key, heard.time, *values)
    )
    if batch.series not in before:
        db.execute(
            "DELETE FROM streams WHERE node = ? AND stream = ? AND series NOT IN"
            " (SELECT series FROM streams WHERE node = ? AND stream = ? ORDER BY time DESC LIMIT ?)",
            (*key[:2], *key[:2], MAX_SERIES),
        )
    grown = after.missing > tally.missing
    return new, (tally.last + 1, batch.sequence - 1) if grown else None


def streams(db: sqlite3.Connection, node: str, stream: str | None = None) -> list[Stream]:
    """A node's streams, the newest series of each first."""
    rows = db.execute(
        "SELECT stream, series, time, last, received, duplicates, gaps, given_up FROM streams"
        " WHERE node = ? AND (? IS NULL OR stream = ?) ORDER BY stream, time DESC",
        (node, stream, stream),
    ).fetchall()
    return [
        Stream(
            name,
            series,
            when,
            Tally(last, received, twice, tuple((low, high) for low, high in json.loads(gaps)), old),
        )
        for name, series, when, last, received, twice, gaps, old in rows
    ]


def ends(db: sqlite3.Connection, node: str, limit: int) -> list[DeploymentEnd]:
    """The newest ends of a node's deployments, newest first."""
    rows = db.execute(
        "SELECT payload FROM ends WHERE node = ? ORDER BY row DESC LIMIT ?", (node, limit)
    ).fetchall()
    return [parse(DeploymentEnd, payload.encode()) for (payload,) in rows]
