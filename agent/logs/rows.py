"""Lines of the log as values, the same wherever they were kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LogRow:
    """``time``: Unix seconds. ``level``: DEBUG to CRITICAL, "" for a recorded event. ``room``: of the code, or the
    kind of event. ``text`` may have several lines."""

    time: float
    level: str
    room: str
    text: str
    model: str | None = None
    deployment: int | None = None
    device: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what it does not say."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows, and how many, the newest ones. ``since``: Unix seconds."""

    lines: int = 100
    since: float | None = None
    model: str | None = None
    deployment: int | None = None
    device: str | None = None

    def takes(self, row: LogRow) -> bool:
        """Whether the row is one of them, ``lines`` aside."""
        return (
            (self.since is None or row.time >= self.since)
            and self.model in (None, row.model)
            and self.deployment in (None, row.deployment)
            and self.device in (None, row.device)
        )


def of_event(row: dict[str, Any]) -> LogRow:
    """An event of telemetry.db (``telemetry.queries.recent_events``)."""
    return LogRow(float(row["time"]), "", str(row["kind"]), str(row["text"]), row["model"])


def newest_within(rows: Sequence[LogRow], limit: int) -> list[dict[str, Any]]:
    """The last rows, in order, whose JSON has at most ``limit`` bytes; one that is too long by itself is cut."""
    kept: list[dict[str, Any]] = []
    for row in reversed(rows):
        value = row.to_json()
        size = len(json.dumps(value).encode()) + 2
        if size > limit:
            if not kept:
                # An escaped character takes 12 bytes at most: two of \uXXXX.
                spare = limit - (size - len(json.dumps(row.text))) - 8
                kept.append({**value, "text": row.text[: max(0, spare // 12)] + "…"})
            break
        limit -= size
        kept.append(value)
    return kept[::-1]


def line(row: dict[str, Any]) -> str:
    """A row's JSON for people: ``time level room text``. Values of a wrong type, which a node may send, do no harm."""
    try:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(row["time"])))
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        stamp = "-"
    text = str(row.get("text", ""))
    model = row.get("model")
    if model and str(model) not in text:
        text = f"{model}: {text}"
    return " ".join(str(part) for part in (stamp, row.get("level"), row.get("room"), text) if part)
