from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.histogram import Histogram
from agent.telemetry import queries, retention, schema, writer
from agent.telemetry.writer import Telemetry
from agent.types import Budget, Candidate, Phase, Placement, PowerSample, State, Verdict

CANDIDATE = Candidate("int8", "onnxruntime", "cpu")
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "telemetry.db"


def histogram(*milliseconds: float) -> Histogram:
    found = Histogram()
    for value in milliseconds:
        found.add(value / 1e3)
    return found


def rows(path: Path, table: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()


def size(path: Path) -> int:
    """The database and its write-ahead log."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*") if file.suffix != ".db-shm")


@pytest.fixture
def telemetry(path: Path) -> Iterator[Telemetry]:
    made = Telemetry(path, 1, clock=lambda: 1000.0, retry_s=0.01)
    yield made
    made.close()


def test_every_kind_of_row_is_stored(telemetry: Telemetry, path: Path) -> None:
    placement = Placement(
        "digits",
        "1.0.0",
        "0" * 64,
        Budget(20, 10),
        CANDIDATE,
        "least energy",
        (Verdict(CANDIDATE, True, "x"),),
        5,
    )
    telemetry.event("restart", "worker  died\nsignal 9", "digits")
    telemetry.deployment("digits", "1.0.0", "0" * 64, State.IN_PROGRESS, Phase.VERIFYING, "")
    telemetry.placement(placement)
    telemetry.power([PowerSample(7.0, "cpu", 2.5)])
    telemetry.latency("digits", "1.0.0", CANDIDATE, histogram(1, 2), 3)
    assert telemetry.flush()
    assert rows(path, "events") == [(1, 1000.0, "restart", "digits", "worker died signal 9")]
    assert rows(path, "deployments") == [
        (1, 1000.0, "digits", "1.0.0", "0" * 64, "IN_PROGRESS", "VERIFYING", "")
    ]
    assert rows(path, "power") == [(1, 7.0, "cpu", 2.5, "measured")]
    assert rows(path, "latency")[0][2:9] == ("digits", "1.0.0", "int8", "onnxruntime", "cpu", 2, 3)
    stored = queries.last_placement(path, "digits")
    assert stored is not None and stored["reason"] == "least energy" and stored["verdicts"][0]["chosen"]


def test_rows_reach_the_disk_without_a_flush(telemetry: Telemetry, path: Path) -> None:
    telemetry.event("a", "b")
    telemetry.close()
    assert len(rows(path, "events")) == 1


def test_what_cannot_be_stored_is_left_out_or_mended(telemetry: Telemetry, path: Path) -> None:
    telemetry.power([PowerSample(1.0, "cpu", float("nan")), PowerSample(float("inf"), "cpu", 1.0)])
    telemetry.latency("digits", "1.0.0", CANDIDATE, Histogram(), 0)
    telemetry.event("odd", "file \udcff" + "x" * 1000)
    assert telemetry.flush()
    assert rows(path, "power") == rows(path, "latency") == []
    ((_, _, _, _, text),) = rows(path, "events")
    assert text.startswith("file ?x") and len(text) == writer.MAX_TEXT


def test_the_file_stays_within_its_cap_and_keeps_the_newest(path: Path) -> None:
    telemetry = Telemetry(path, 1)
    largest = 0
    for step in range(30):
        for number in range(1000):
            telemetry.power([PowerSample(step * 1000.0 + number, f"rail-{number % 8}", 1.0)])
        for _ in range(100):
            telemetry.latency("digits", "1.0.0", CANDIDATE, histogram(*range(1, 60)), 0)
        telemetry.event("step", str(step))
        assert telemetry.flush(30)
        largest = max(largest, size(path))
    telemetry.close()
    assert telemetry.dropped == 0
    assert 0.8 * MIB < largest <= 1.05 * MIB
    assert [row[4] for row in rows(path, "events")] == [str(step) for step in range(30)]
    times = [row[1] for row in rows(path, "power")]
    assert times[-1] == 29_999 and times == sorted(times) and times[0] > 0


def test_a_flood_of_events_stays_within_the_cap_too(path: Path) -> None:
    telemetry = Telemetry(path, 1)
    for _ in range(20):
        for number in range(200):
            telemetry.event("flood", f"{number} " + "x" * 490)
        assert telemetry.flush(30)
    telemetry.power([PowerSample(1.0, "cpu", 1.0)])
    telemetry.close()
    assert size(path) <= 1.05 * MIB
    assert len(rows(path, "events")) <= retention.KEPT_PER_MB["events"] + writer.BATCH_ROWS
    assert len(rows(path, "power")) == 1


def test_a_smaller_cap_shrinks_the_file(path: Path) -> None:
    telemetry = Telemetry(path, 4)
    for _ in range(12):
        for number in range(4500):
            telemetry.power([PowerSample(float(number), "cpu", 1.0)])
        assert telemetry.flush(30)
    telemetry.close()
    assert size(path) > 1.5 * MIB
    telemetry = Telemetry(path, 1)
    telemetry.event("a", "b")
    telemetry.close()
    assert size(path) <= 1.05 * MIB


def test_the_queue_is_bounded_and_counts_what_it_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    opened = schema.open_for_writing

    def wait(*args: Any) -> sqlite3.Connection:
        gate.wait(10)
        return opened(*args)

    monkeypatch.setattr(writer, "open_for_writing", wait)
    monkeypatch.setattr(writer, "QUEUE_ROWS", 200)
    telemetry = Telemetry(path, 1)
    for number in range(1000):
        telemetry.power([PowerSample(float(number), "cpu", 1.0)])
    telemetry.event("kept", "a flood of power samples does not push events out")
    gate.set()
    telemetry.close()
    assert telemetry.dropped > 0
    times = [row[1] for row in rows(path, "power")]
    assert len(times) + telemetry.dropped == 1000 and times[-1] == 999
    texts = [row[4] for row in rows(path, "events")]
    assert texts[0].startswith("a flood") and f"{telemetry.dropped} rows lost" in texts[-1]


class Disk:
    """A connection that fails as a full disk does, while ``full``."""

    def __init__(self) -> None:
        self.full = True

    def open(self, path: Path, wal_pages: int) -> sqlite3.Connection:
        connection = schema.open_for_writing(path, wal_pages)
        if self.full:
            connection.execute("PRAGMA max_page_count = 1")
        return connection


def test_a_full_disk_is_survived_and_told_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    monkeypatch.setattr(writer, "open_for_writing", disk.open)
    telemetry = Telemetry(path, 1, retry_s=0.01)
    with caplog.at_level(logging.WARNING):
        for number in range(500):
            telemetry.event("n", f"{number} " + "x" * 200)
        assert not telemetry.flush()
        assert not telemetry.flush()
        assert telemetry.problem is not None and "full" in telemetry.problem
        assert len(caplog.records) == 1
    disk.full = False
    assert telemetry.flush(30)
    telemetry.close()
    assert telemetry.problem is None and telemetry.dropped == 0
    texts = [row[4] for row in rows(path, "events")]
    assert [text.split()[0] for text in texts if "xxx" in text] == [str(number) for number in range(500)][
        -400:
    ]
    told = [text for text in texts if "not written for" in text]
    assert len(told) == 1 and "full" in told[0]


def test_a_folder_that_cannot_be_written_heals(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    telemetry = Telemetry(tmp_path / "state" / "telemetry.db", 1, retry_s=0.01)
    telemetry.event("early", "kept in memory")
    assert not telemetry.flush()
    (tmp_path / "state").unlink()
    assert telemetry.flush()
    telemetry.close()
    assert rows(tmp_path / "state" / "telemetry.db", "events")[0][4] == "kept in memory"


@pytest.mark.parametrize("damage", ["no database at all " * 300, ""])
def test_a_damaged_file_is_kept_aside(path: Path, damage: str) -> None:
    first = Telemetry(path, 1)
    for number in range(2000):
        first.event("n", str(number))
    first.close()
    data = path.read_bytes()
    path.write_bytes(damage.encode() or data[:4096] + b"\xa5" * (len(data) - 4096))
    telemetry = Telemetry(path, 1, retry_s=0.01)
    telemetry.event("after", "the damage")
    telemetry.flush()
    assert telemetry.flush()
    telemetry.close()
    assert "the damage" in [row[4] for row in rows(path, "events")]
    assert path.with_name("telemetry.db.damaged").exists()


def test_a_newer_schema_is_left_alone_and_the_way_back_is_named(path: Path) -> None:
    Telemetry(path, 1).close()
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    telemetry = Telemetry(path, 1, retry_s=0.01)
    telemetry.event("a", "b")
    assert not telemetry.flush()
    assert telemetry.problem is not None and f"mv {path}" in telemetry.problem
    assert path.read_bytes() == before
    path.rename(path.with_name("aside"))
    assert telemetry.flush()
    telemetry.close()


CRASH = """
import sys
from pathlib import Path
from agent.telemetry.writer import Telemetry
telemetry = Telemetry(Path(sys.argv[1]), 1)
number = 0
while True:
    for _ in range(300):
        number += 1
        telemetry.event("n", str(number))
    telemetry.flush()
    print(number, flush=True)
"""


def test_kill_9_while_writing_loses_nothing_that_was_flushed(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CRASH, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        flushed = [int(process.stdout.readline()) for _ in range(5)][-1]
        process.send_signal(signal.SIGKILL)
        process.wait()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    numbers = [int(row[4]) for row in rows(path, "events")]
    assert numbers[-1] >= flushed
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    telemetry = Telemetry(path, 1)
    telemetry.event("n", "again")
    telemetry.close()
    assert telemetry.problem is None
