"""Whether this machine knows what time it is: certificates, signed messages and download hours go by it."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from agent.deploy.journal import MAX_CLOCK_LEAD_S, SCHEMA_VERSION
from agent.doctor.finding import Finding, ok, problem, warning
from agent.doctor.subject import Subject
from agent.hours import PLAUSIBLE_TIME

AREA = "clock"
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
CLIENTS = ("chronyd", "ntpd", "/lib/systemd/systemd-timesyncd", "/usr/lib/systemd/systemd-timesyncd")
MAX_JOURNAL_BYTES = 256 << 20
TURN_ON = "sudo timedatectl set-ntp true"


@dataclass(frozen=True, slots=True)
class Facts:
    """Unix seconds. ``synchronised``: None when the kernel does not say. ``client``: something that could do it is
    installed. ``floor``: what signed messages proved to have passed. ``schema``: of the journal."""

    now: float
    synchronised: bool | None = None
    client: bool = True
    floor: float | None = None
    schema: int | None = None


def look(state: Path) -> Facts:
    floor, schema = read_journal(state / "state.db")
    return Facts(time.time(), _synchronised(), any(map(shutil.which, CLIENTS)), floor, schema)


def _synchronised() -> bool | None:
    if SYNCHRONIZED.exists():
        return True
    with contextlib.suppress(OSError, AttributeError):
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))  # modes 0: it only reads
        return None if answer < 0 else answer != TIME_ERROR
    return None


def read_journal(path: Path) -> tuple[float | None, int | None]:
    """The clock's floor and the schema in the daemon's journal; None for what cannot be read.

    From a copy: SQLite would write beside the file, and the daemon has it locked.
    """
    with contextlib.suppress(OSError, sqlite3.Error), tempfile.TemporaryDirectory() as folder:
        if path.stat().st_size > MAX_JOURNAL_BYTES:
            return None, None
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", f"{folder}/state.db{suffix}")
        with contextlib.closing(sqlite3.connect(f"{folder}/state.db")) as db:
            schema = int(db.execute("PRAGMA user_version").fetchone()[0])
            with contextlib.suppress(sqlite3.Error):
                row = db.execute("SELECT floor FROM clock").fetchone()
                return (float(row[0]) if row else None), schema
            return None, schema
    return None, None


def judge(facts: Facts, subject: Subject) -> list[Finding]:
    return list(_of_clock(facts)) + list(_of_schema(facts, subject))


def _of_clock(facts: Facts) -> Iterator[Finding]:
    now, mend = date(facts.now), TURN_ON if facts.client else "sudo apt-get install systemd-timesyncd"
    by_hand = f"{mend}; without a network: sudo date --utc --set 'YYYY-MM-DD HH:MM'"
    if facts.now < PLAUSIBLE_TIME:
        yield problem(
            AREA, f"the clock was never set: it says {now}",
            "certificates seem not yet valid, and signed messages from the future", by_hand,
        )  # fmt: skip
    elif facts.floor is not None and facts.now < facts.floor - MAX_CLOCK_LEAD_S:
        yield problem(
            AREA, f"the clock is behind: it says {now}",
            f"a message that the operator signed at {date(facts.floor)} has been here", by_hand,
        )  # fmt: skip
    elif facts.synchronised is False:
        yield warning(
            AREA, f"nothing keeps the clock right; it says {now}",
            "it drifts by seconds a day, until certificates and signed commands are refused", mend,
        )  # fmt: skip
    else:
        known = "is synchronised" if facts.synchronised else "is plausible; the kernel does not tell more"
        yield ok(AREA, f"the clock {known}: {now}")


def _of_schema(facts: Facts, subject: Subject) -> Iterator[Finding]:
    if facts.schema is not None and facts.schema > SCHEMA_VERSION:
        state = subject.folders.state
        yield problem(
            "service", f"{state}/state.db was written by a newer overlaid",
            f"its schema is {facts.schema}, this one reads up to {SCHEMA_VERSION}: install that version again, "
            "or begin without its models",
            f"sudo systemctl stop overlaid && sudo mv {state} {state}.schema-{facts.schema} && {subject.restart}",
        )  # fmt: skip


def date(unix_s: float) -> str:
    """In UTC."""
    try:
        return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{unix_s:.0f} s after 1970"
