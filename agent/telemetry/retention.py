"""How telemetry.db stays within its cap: the oldest bulk rows go first, then the oldest of everything."""

from __future__ import annotations

import sqlite3

from agent.telemetry.schema import PAGE_BYTES

BULK = ("power", "latency")
# Rows kept per MB of the cap. At their usual sizes these tables take about a fifth of the file; the rest is bulk.
KEPT_PER_MB = {"events": 400, "deployments": 200, "placements": 10}
VACUUM_PAGES = 256


class Cap:
    """The cap split between the database (15/16) and its write-ahead log (1/16)."""

    def __init__(self, max_mb: int) -> None:
        pages = max_mb * (1 << 20) // PAGE_BYTES
        self.wal_pages = min(1000, pages // 16)
        self.pages = pages - self.wal_pages
        self.kept_rows = {table: kept * max_mb for table, kept in KEPT_PER_MB.items()}

    def enforce(self, connection: sqlite3.Connection) -> None:
        """Delete the oldest rows and give pages back until the database fits. Raises sqlite3.Error.

        Works in small transactions, so that the write-ahead log stays small too.
        """
        for table, kept in self.kept_rows.items():
            _drop_oldest(connection, table, _count(connection, table) - kept)
        while _pages(connection) - _free_pages(connection) > self.pages:
            if not any([_drop_share(connection, table) for table in BULK]) and not any(
                [_drop_share(connection, table) for table in self.kept_rows]
            ):
                return
        while (excess := _pages(connection) - self.pages) > 0 and _free_pages(connection) > 0:
            connection.execute(f"PRAGMA incremental_vacuum({min(excess, VACUUM_PAGES):d})").fetchall()


def _pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def _ends(connection: sqlite3.Connection, table: str) -> tuple[int, int]:
    # Two look-ups: SQLite answers min and max in one SELECT by reading the whole table.
    low, high = connection.execute(
        f"SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})"
    ).fetchone()
    return (low, high) if low is not None else (1, 0)


def _count(connection: sqlite3.Connection, table: str) -> int:
    low, high = _ends(connection, table)
    return high - low + 1


def _drop_oldest(connection: sqlite3.Connection, table: str, rows: int) -> int:
    if rows <= 0:
        return 0
    low, _ = _ends(connection, table)
    return connection.execute(f"DELETE FROM {table} WHERE id < ?", (low + rows,)).rowcount


def _drop_share(connection: sqlite3.Connection, table: str) -> int:
    """Drop the oldest 64th of a table (at least one row); 0 when it is empty."""
    return _drop_oldest(connection, table, -(-_count(connection, table) // 64))
