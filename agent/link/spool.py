"""``outbox.db``: what waits for the broker, the numbers that its streams have come to, and notes of who writes them."""

from __future__ import annotations

import contextlib
import enum
import json
import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import LinkError

SCHEMA_VERSION = 1
PAGE_BYTES = 4096
DAMAGED = ("file is not a database", "malformed")
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    priority INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_value ON outbox (priority, id);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
COMMIT;
"""

T = TypeVar("T")
Encode = Callable[[str, int, T], bytes]  # (series, sequence, part) -> payload


class Priority(enum.IntEnum):
    """The highest is sent first; the oldest of the lowest is dropped first."""

    TELEMETRY = 0
    EVENT = 1
    RESULT = 2


Key = tuple[str, int]  # the file's series, so that what was of a lost file is nothing of the next; the row


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits."""

    key: Key
    topic: str
    payload: bytes


class Spool:
    """Used from one thread. Every method raises LinkError when the disk refuses, and the next call tries again.

    ``max_bytes`` bounds the file, without its write-ahead log of some 4 MB. ``dropped`` counts what went for want of
    space, and ``damaged`` the files that were put aside, with all that waited in them, as ``outbox.db.damaged``.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.dropped = self.damaged = 0
        self._path, self._max_bytes = path, max_bytes
        self._db: sqlite3.Connection | None = None
        self._rows = 0
        self._series = ""

    def __len__(self) -> int:
        return self._rows

    def open(self) -> None:
        """Open the file now, so that what waits in it is known."""
        with self._database():
            pass

    def put(self, messages: Sequence[tuple[str, bytes, Priority]]) -> None:
        """Keep messages; they are on the disk when this returns."""
        with self._transaction() as db:
            for topic, payload, priority in messages:
                self._insert(db, topic, payload, priority)
            self._drop(db)

    def append(
        self, topic: str, parts: Sequence[T], encode: Encode[T], priority: Priority, notes: Mapping[str, Any]
    ) -> None:
        """Number the parts on from where the topic's stream has come to, keep them, and the notes, or nothing at all.

        A series of numbers lasts as long as the file: it begins anew, at 1, when that is lost.
        """
        with self._transaction() as db:
            sequence = int(_note(db, f"sequence {topic}") or 0)
            for part in parts:
                sequence += 1
                self._insert(db, topic, encode(self._series, sequence, part), priority)
            for name, value in {**notes, f"sequence {topic}": sequence}.items():
                db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))
            self._drop(db)

    def note(self, name: str) -> Any:
        """What ``append`` noted last under this name; None when it never did."""
        with self._database() as db:
            return _note(db, name)

    def first(self, count: int, nbytes: int, skip: Collection[Key]) -> list[Waiting]:
        """What is to be sent next, by priority and age: so many messages and, unless one alone has more, bytes."""
        found: list[Waiting] = []
        with self._database() as db:
            for priority in sorted(Priority, reverse=True):
                # The cursor reads a row when it is asked for it: not more payloads than are returned, and one.
                rows = db.execute(
                    "SELECT id, topic, payload FROM outbox WHERE priority = ? ORDER BY id", (priority,)
                )
                with contextlib.closing(rows):
                    for number, topic, payload in rows:
                        key = (self._series, number)
                        if key in skip:
                            continue
                        nbytes -= len(payload)
                        if found and (len(found) >= count or nbytes < 0):
                            return found
                        found.append(Waiting(key, topic, payload))
        return found

    def delete(self, keys: Collection[Key]) -> None:
        """Forget messages; those that are gone already are no error."""
        with self._transaction() as db:
            gone = [(number,) for series, number in keys if series == self._series]
            self._rows -= max(0, db.executemany("DELETE FROM outbox WHERE id = ?", gone).rowcount)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._db is None:
                self._db = self._open()
            yield self._db
        except sqlite3.Error as error:
            # What was counted may not be so any more: counted again when it is opened again.
            self.close()
            if isinstance(error, sqlite3.DatabaseError) and any(sign in str(error) for sign in DAMAGED):
                raise self._set_aside(error) from error
            raise LinkError(
                f"the outbox in {self._path} cannot be used: {error}; check the disk and its permissions"
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._database() as db:
            before = self._rows, self.dropped
            try:
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    yield db
            except BaseException:
                self._rows, self.dropped = before
                raise

    def _insert(self, db: sqlite3.Connection, topic: str, payload: bytes, priority: Priority) -> None:
        db.execute(
            "INSERT INTO outbox (topic, payload, priority) VALUES (?, ?, ?)", (topic, payload, priority)
        )
        self._rows += 1

    def _drop(self, db: sqlite3.Connection) -> None:
        """The oldest of the lowest priority, until the pages in use are within the limit."""
        while self._rows and _used(db) > self._max_bytes:
            db.execute("DELETE FROM outbox WHERE id = (SELECT id FROM outbox ORDER BY priority, id LIMIT 1)")
            self._rows -= 1
            self.dropped += 1

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        try:
            # Exclusive: no index file of the write-ahead log. Opening an existing file must not write (full disk).
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._check_version(db)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA cache_size = -512")
            tables = db.execute(
                "SELECT count(*) FROM sqlite_master WHERE name IN ('outbox', 'notes')"
            ).fetchone()
            if tables[0] < 2:
                db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(_SCHEMA)
            self._series = _note(db, "series") or ""
            if not self._series:
                self._series = uuid.uuid4().hex[:12]
                db.execute("INSERT INTO notes VALUES ('series', ?)", (json.dumps(self._series),))
            self._rows = int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])
        except BaseException:
            db.close()
            raise
        return db

    def _check_version(self, db: sqlite3.Connection) -> None:
        # 0: an empty file, or one from before schemas were numbered
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise LinkError(
                f"{self._path} has schema {version}, this overlaid knows {SCHEMA_VERSION}: go back to the overlaid "
                f"that wrote it, or put it aside with what waits in it: mv {self._path} {self._path}.v{version}"
            )

    def _set_aside(self, error: sqlite3.DatabaseError) -> LinkError:
        aside = self._path.with_name(self._path.name + ".damaged")
        lost, self._rows = self._rows, 0
        try:
            self._path.replace(aside)
            for suffix in ("-wal", "-journal"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as failed:
            return LinkError(f"{self._path} is damaged ({error}) and cannot be put aside: {failed.strerror}")
        self.damaged += 1
        return LinkError(
            f"{self._path} is damaged ({error}): kept as {aside.name} with the {lost or 'unknown number of'} messages "
            "that waited; a new one begins"
        )


def _used(db: sqlite3.Connection) -> int:
    pages, free = (
        int(db.execute(f"PRAGMA {what}").fetchone()[0]) for what in ("page_count", "freelist_count")
    )
    return (pages - free) * PAGE_BYTES


def _note(db: sqlite3.Connection, name: str) -> Any:
    row = db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
    return json.loads(row[0]) if row else None
