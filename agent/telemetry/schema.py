"""telemetry.db: its tables, and how the one writer and the many readers open it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agent.errors import TelemetryError

VERSION = 1
PAGE_BYTES = 4096

# Ids only grow and only the oldest rows are deleted: the lowest and the highest id count a table without reading it.
TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, model TEXT, text TEXT NOT NULL);
CREATE TABLE deployments (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
    state TEXT NOT NULL, phase TEXT, why TEXT NOT NULL);
CREATE TABLE placements (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, model TEXT NOT NULL, placement TEXT NOT NULL);
CREATE TABLE power (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, rail TEXT NOT NULL, watts REAL NOT NULL, tag TEXT NOT NULL);
CREATE TABLE latency (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, variant TEXT NOT NULL,
    backend TEXT NOT NULL, device TEXT NOT NULL, requests INTEGER NOT NULL, errors INTEGER NOT NULL,
    histogram TEXT NOT NULL);
CREATE INDEX events_time ON events (time);
CREATE INDEX deployments_time ON deployments (time);
CREATE INDEX placements_model ON placements (model);
CREATE INDEX power_time ON power (time);
CREATE INDEX latency_time ON latency (time);
PRAGMA user_version = 1;
COMMIT;
"""


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of an open database (0: empty); TelemetryError when a newer overlaid wrote it."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise TelemetryError(
            f"{path} has schema {version}, this overlaid knows {VERSION}: go back to the overlaid that wrote it, "
            f"or put it aside: mv {path} {path}.v{version}"
        )
    return version


def open_for_writing(path: Path, wal_pages: int) -> sqlite3.Connection:
    """Open or make the database: WAL, synchronous NORMAL (a power cut loses the last seconds, never the file).

    ``wal_pages`` bounds the write-ahead log. Raises sqlite3.Error, OSError or TelemetryError (newer schema).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, timeout=2.0, check_same_thread=False)
    try:
        version = check_version(connection, path)
        # Only an empty file takes this; it lets a file shrink that is over its cap.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {wal_pages:d}")
        connection.execute(f"PRAGMA journal_size_limit = {wal_pages * PAGE_BYTES:d}")
        if version == 0:
            connection.executescript(TABLES)
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the database read-only; TelemetryError when it is missing, unreadable, damaged or of a newer schema."""
    try:
        path.stat()
    except FileNotFoundError:
        raise TelemetryError(
            f"no telemetry at {path}: has the daemon run here? see overlaid run, or give --config"
        ) from None
    except OSError as error:
        raise TelemetryError(f"cannot read {path}: {error.strerror}; try as root or in its group") from error
    uri = path.absolute().as_uri()
    connection: sqlite3.Connection | None = None
    try:
        connection = _connect_reader(uri, path)
        if check_version(connection, path) == 0:
            raise TelemetryError(f"{path} is empty: the daemon has not recorded anything yet")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise TelemetryError(f"cannot read {path}: {error}") from error
        raise
    return connection


def _connect_reader(uri: str, path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=2.0)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if not isinstance(error, sqlite3.OperationalError) or path.with_name(path.name + "-wal").exists():
            raise
        # A reader who may not write the folder cannot make the WAL's index; without a WAL nobody writes either.
        return sqlite3.connect(f"{uri}?immutable=1", uri=True)
    return connection
