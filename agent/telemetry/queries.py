"""What telemetry.db tells. Each query takes ``Query``: ``sqlite_utils.Database.query`` in the CLI, ``reader`` in the
daemon, which never imports sqlite-utils. Times are Unix seconds, latencies ms, power W."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import TelemetryError
from agent.histogram import Histogram
from agent.telemetry.schema import open_for_reading

Row = dict[str, Any]
Query = Callable[[str, Sequence[Any]], Iterable[Row]]

Position = Mapping[str, int]  # by table: the newest row's id

WHERE = "variant", "backend", "device"
SUMMED = "latency", "power"
_LATENCY = "time, model, version, variant, backend, device, requests, errors, histogram"
_POWER = "rail, tag, avg(watts) AS average_w, max(watts) AS max_w, count(*) AS samples"
_BY_RAIL = "GROUP BY rail, tag ORDER BY rail, tag"


@contextlib.contextmanager
def reader(path: Path) -> Iterator[Query]:
    """A read-only ``Query`` with the standard library's sqlite3; TelemetryError when the file cannot be read."""
    with contextlib.closing(open_for_reading(path)) as connection:
        connection.row_factory = sqlite3.Row

        def query(sql: str, values: Sequence[Any]) -> list[Row]:
            return [dict(row) for row in connection.execute(sql, values)]

        try:
            yield query
        except sqlite3.Error as error:
            raise TelemetryError(f"cannot read {path}: {error}") from error


def events(query: Query, since: float, model: str | None = None) -> list[Row]:
    """time, kind, model, text of what happened, oldest first; events without a model belong to every model."""
    return list(
        query(
            "SELECT time, kind, model, text FROM events"
            " WHERE time >= ? AND (? IS NULL OR model IS NULL OR model = ?) ORDER BY id",
            (since, model, model),
        )
    )


def deployments(query: Query, since: float, model: str | None = None) -> list[Row]:
    """time, model, version, digest, state, phase, why of each step of each deployment, oldest first."""
    return list(
        query(
            "SELECT time, model, version, digest, state, phase, why FROM deployments"
            " WHERE time >= ? AND (? IS NULL OR model = ?) ORDER BY id",
            (since, model, model),
        )
    )


def placements(query: Query, since: float, model: str | None = None) -> list[Row]:
    """time and each ``agent.types.Placement`` as JSON values, oldest first."""
    rows = query(
        "SELECT time, placement FROM placements WHERE time >= ? AND (? IS NULL OR model = ?) ORDER BY id",
        (since, model, model),
    )
    return [{"time": row["time"], **_decode(row["placement"], dict)} for row in rows]


def power(query: Query, since: float) -> list[Row]:
    """time, rail, watts, tag of every sample, oldest first."""
    return list(
        query("SELECT time, rail, watts, tag FROM power WHERE time >= ? ORDER BY time, rail", (since,))
    )


def power_summary(query: Query, since: float) -> list[Row]:
    """average_w, max_w and samples per rail and tag."""
    return list(query(f"SELECT {_POWER} FROM power WHERE time >= ? {_BY_RAIL}", (since,)))


def power_over_time(query: Query, since: float, bin_s: float) -> list[Row]:
    """time (middle of the bin), rail, tag, average_w per rail, tag and bin of ``bin_s`` seconds."""
    return list(
        query(
            "SELECT (CAST(time / ? AS INTEGER) + 0.5) * ? AS time, rail, tag, avg(watts) AS average_w FROM power"
            " WHERE time >= ? GROUP BY rail, tag, 1 ORDER BY rail, tag, 1",
            (bin_s, bin_s, since),
        )
    )


def latency(query: Query, since: float, model: str | None = None) -> list[Row]:
    """One row per model, placement and flush interval, oldest first, with p50_ms and p99_ms of that interval."""
    found = []
    for row in _latency_rows(query, since, model):
        pairs = row.pop("histogram")
        found.append({**row, **_percentiles(_histogram(pairs))})
    return found


def latency_summary(query: Query, since: float, model: str | None = None) -> list[Row]:
    """One row per model, version and placement over the whole span: requests, errors, p50_ms, p99_ms, first, last."""
    return _latency_sums(_latency_rows(query, since, model))


def _latency_sums(rows: Iterable[Row]) -> list[Row]:
    sums: dict[tuple[str, ...], tuple[Row, Histogram]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("model", "version", *WHERE))
        fresh = dict(
            zip(("model", "version", *WHERE), key, strict=True), requests=0, errors=0, first=row["time"]
        )
        total, histogram = sums.setdefault(key, (fresh, Histogram()))
        histogram.merge(_histogram(row["histogram"]).counts)
        total["requests"] += row["requests"]
        total["errors"] += row["errors"]
        total["last"] = row["time"]
    return [{**total, **_percentiles(histogram)} for total, histogram in sums.values()]


def latency_over_time(query: Query, since: float, bin_s: float, model: str | None = None) -> list[Row]:
    """time (middle of the bin), model, requests, p50_ms, p99_ms per model and bin of ``bin_s`` seconds."""
    bins: dict[tuple[str, int], Histogram] = {}
    for row in _latency_rows(query, since, model):
        key = (row["model"], int(row["time"] // bin_s))
        bins.setdefault(key, Histogram()).merge(_histogram(row["histogram"]).counts)
    return [
        {"time": (index + 0.5) * bin_s, "model": name, "requests": total.total, **_percentiles(total)}
        for (name, index), total in sorted(bins.items())
        if total.total
    ]


def last_placement(path: Path, model: str) -> Row | None:
    """The newest recorded placement of a model; None when there is none."""
    with reader(path) as query:
        rows = list(
            query("SELECT placement FROM placements WHERE model = ? ORDER BY id DESC LIMIT 1", (model,))
        )
    return _decode(rows[0]["placement"], dict) if rows else None


def last_changes(path: Path, model: str, count: int) -> list[Row]:
    """The newest ``count`` times that a model moved, was shed or could not be moved, oldest first: time, kind, text."""
    with reader(path) as query:
        rows = query(
            "SELECT time, kind, text FROM events WHERE model = ? AND kind IN ('replaced', 'replace-failed')"
            " ORDER BY id DESC LIMIT ?",
            (model, count),
        )
        return list(rows)[::-1]


def recent_events(
    path: Path, lines: int, since: float = 0.0, model: str | None = None, before: float | None = None
) -> list[Row]:
    """The newest ``lines`` events, oldest first: id, time, kind, model, text; only the ``model``'s own, those from
    ``since`` on, and those ``before``."""
    with reader(path) as query:
        rows = list(
            query(
                "SELECT id, time, kind, model, text FROM events WHERE time >= ? AND (? IS NULL OR time < ?)"
                " AND (? IS NULL OR model = ?) ORDER BY id DESC LIMIT ?",
                (since, before, before, model, model, lines),
            )
        )
    return rows[::-1]


def events_after(path: Path, number: int, model: str | None = None) -> list[Row]:
    """Events with an id above ``number``, oldest first, as ``recent_events``."""
    with reader(path) as query:
        return list(
            query(
                "SELECT id, time, kind, model, text FROM events WHERE id > ? AND (? IS NULL OR model = ?)"
                " ORDER BY id",
                (number, model, model),
            )
        )


def newest(path: Path) -> Position:
    """How far the tables are that ``summary_rows`` reads. TelemetryError when the database cannot be read."""
    with reader(path) as query:
        return {table: _newest(query, table) for table in SUMMED}


def summary_rows(path: Path, after: Position) -> tuple[list[Row], Position]:
    """What was recorded after this position, and the position to go on from: one row per model and placement (stream
    "latency") and per rail ("power").

    By row ids, which only grow, not by time, which jumps: a row is summed up once. TelemetryError when the database
    cannot be read.
    """
    with reader(path) as query:
        upto = {table: _newest(query, table) for table in SUMMED}
        # Fewer rows than there were: the database began anew.
        spans = {
            table: (low if (low := after.get(table, 0)) <= high else 0, high) for table, high in upto.items()
        }
        latencies = query(
            f"SELECT {_LATENCY} FROM latency WHERE id > ? AND id <= ? ORDER BY id", spans["latency"]
        )
        powers = query(f"SELECT {_POWER} FROM power WHERE id > ? AND id <= ? {_BY_RAIL}", spans["power"])
        served = [{"stream": "latency", **row} for row in _latency_sums(latencies)]
        return served + [{"stream": "power", **row} for row in powers], upto


def _newest(query: Query, table: str) -> int:
    return int(next(iter(query(f"SELECT coalesce(max(id), 0) AS newest FROM {table}", ())))["newest"])


def _latency_rows(query: Query, since: float, model: str | None) -> Iterable[Row]:
    return query(
        f"SELECT {_LATENCY} FROM latency WHERE time >= ? AND (? IS NULL OR model = ?) ORDER BY id",
        (since, model, model),
    )


def _percentiles(histogram: Histogram) -> Row:
    return {"p50_ms": histogram.percentile_ms(0.5), "p99_ms": histogram.percentile_ms(0.99)}


def _histogram(text: str) -> Histogram:
    try:
        return Histogram.of(_decode(text, list))
    except (ValueError, TypeError) as error:
        raise TelemetryError(
            f"telemetry holds a damaged histogram: {error}; put telemetry.db aside"
        ) from error


def _decode(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TelemetryError(f"telemetry holds a damaged row: {error}; put telemetry.db aside") from error
    if not isinstance(value, kind):
        raise TelemetryError("telemetry holds a damaged row; put telemetry.db aside")
    return value
