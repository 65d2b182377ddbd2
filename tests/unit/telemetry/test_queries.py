from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import TelemetryError
from agent.histogram import Histogram
from agent.telemetry import queries, schema
from agent.telemetry.writer import Telemetry
from agent.types import Budget, Candidate, Phase, Placement, PowerSample, State

CPU = Candidate("int8", "onnxruntime", "cpu")
GPU = Candidate("fp32", "onnxruntime", "gpu")


def served(ms: float, count: int) -> Histogram:
    found = Histogram()
    for _ in range(count):
        found.add(ms / 1e3)
    return found


def placement(model: str, reason: str) -> Placement:
    return Placement(model, "1.0.0", "0" * 64, Budget(20, 10), CPU, reason, (), 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Ten minutes of a node: one interval a minute, at t = 0, 60, …"""
    path = tmp_path / "telemetry.db"
    now = 0.0
    telemetry = Telemetry(path, 8, clock=lambda: now)
    for minute in range(10):
        now = 60.0 * minute
        telemetry.latency("digits", "1.0.0", CPU if minute < 5 else GPU, served(1 + minute, 100), 1)
        telemetry.latency("other", "2.0.0", CPU, served(50, 1), 0)
        telemetry.power([PowerSample(now, "cpu", float(minute)), PowerSample(now, "gpu", 5.0, "estimated")])
        telemetry.event("minute", str(minute), "digits" if minute % 2 else None)
    telemetry.event("other", "of another model", "other")
    telemetry.deployment("digits", "1.0.0", "0" * 64, State.IN_PROGRESS, Phase.VERIFYING, "")
    telemetry.deployment("digits", "1.0.0", "0" * 64, State.SUCCEEDED, None, "soaked")
    telemetry.placement(placement("digits", "first"))
    telemetry.placement(placement("digits", "second"))
    telemetry.close()
    return path


def test_latency_adds_up_per_model_and_placement(path: Path) -> None:
    with queries.reader(path) as query:
        cpu, other, gpu = queries.latency_summary(query, 0)
    assert (cpu["model"], cpu["device"], cpu["requests"], cpu["errors"]) == ("digits", "cpu", 500, 5)
    assert (gpu["device"], gpu["variant"], gpu["first"], gpu["last"]) == ("gpu", "fp32", 300.0, 540.0)
    assert cpu["p50_ms"] == pytest.approx(3, rel=0.1) and cpu["p99_ms"] == pytest.approx(5, rel=0.1)
    assert (other["model"], other["requests"]) == ("other", 10)


def test_since_and_model_limit_the_answer(path: Path) -> None:
    with queries.reader(path) as query:
        assert {row["model"] for row in queries.latency(query, 0, "digits")} == {"digits"}
        assert [row["time"] for row in queries.latency(query, 481, "digits")] == [540.0]
        assert [row["text"] for row in queries.events(query, 480, "digits")] == ["8", "9"]
        assert [row["text"] for row in queries.events(query, 540)] == ["9", "of another model"]
        assert [row["state"] for row in queries.deployments(query, 0)] == ["IN_PROGRESS", "SUCCEEDED"]
        assert [row["reason"] for row in queries.placements(query, 0)] == ["first", "second"]
        assert queries.placements(query, 541) == queries.deployments(query, 0, "other") == []


def test_power_is_averaged_per_rail_and_tag(path: Path) -> None:
    with queries.reader(path) as query:
        assert queries.power_summary(query, 300) == [
            {"rail": "cpu", "tag": "measured", "average_w": 7.0, "max_w": 9.0, "samples": 5},
            {"rail": "gpu", "tag": "estimated", "average_w": 5.0, "max_w": 5.0, "samples": 5},
        ]
        assert len(queries.power(query, 300)) == 10


def test_bins_merge_intervals(path: Path) -> None:
    with queries.reader(path) as query:
        bins = queries.latency_over_time(query, 0, 300, "digits")
    assert [(row["time"], row["requests"]) for row in bins] == [(150.0, 500), (450.0, 500)]
    assert bins[0]["p99_ms"] < bins[1]["p50_ms"]


def test_the_operator_gets_latency_and_power_in_one_list(path: Path) -> None:
    newest = queries.newest(path)
    rows, position = queries.summary_rows(path, {**newest, "power": newest["power"] - 2})
    assert [row["stream"] for row in rows] == ["power", "power"] and position == newest
    assert queries.summary_rows(path, newest) == ([], newest)
    begun_anew = {table: last + 1 for table, last in newest.items()}
    rows, position = queries.summary_rows(path, begun_anew)
    assert position == newest
    assert [(row["stream"], row.get("model") or row.get("rail")) for row in rows] == [
        ("latency", "digits"),
        ("latency", "other"),
        ("latency", "digits"),
        ("power", "cpu"),
        ("power", "gpu"),
    ]
    with pytest.raises(TelemetryError, match="no telemetry"):
        queries.summary_rows(path.with_name("none.db"), {})


def test_recent_events_come_oldest_first(path: Path) -> None:
    assert [row["text"] for row in queries.recent_events(path, 3)] == ["8", "9", "of another model"]


def test_events_are_chosen_by_time_and_model(path: Path) -> None:
    everything = queries.recent_events(path, 100)
    middle = everything[len(everything) // 2]["time"]
    assert queries.recent_events(path, 100, since=middle) == [e for e in everything if e["time"] >= middle]
    assert queries.recent_events(path, 100, before=middle) == [e for e in everything if e["time"] < middle]
    for model in {event["model"] for event in everything} - {None}:
        own = [event for event in everything if event["model"] == model]
        assert queries.recent_events(path, 100, model=model) == own
        assert queries.events_after(path, own[0]["id"], model) == own[1:]
    assert queries.events_after(path, everything[-3]["id"]) == everything[-2:]


def test_the_last_placement(path: Path) -> None:
    found = queries.last_placement(path, "digits")
    assert found is not None and found["reason"] == "second"
    assert queries.last_placement(path, "unknown") is None


def test_missing_damaged_newer_and_empty_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    with pytest.raises(TelemetryError, match="overlaid run"):
        queries.recent_events(path, 1)
    path.write_bytes(b"")
    with pytest.raises(TelemetryError, match="empty"):
        queries.recent_events(path, 1)
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(TelemetryError, match="cannot read"):
        queries.recent_events(path, 1)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
    with pytest.raises(TelemetryError, match="go back to the overlaid"):
        queries.recent_events(path, 1)


@pytest.mark.parametrize("damage", ["nonsense", "[[1]]", "[[1, -5]]", "{}", '[["a", 1]]'])
def test_a_damaged_histogram_is_named(path: Path, damage: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE latency SET histogram = ?", (damage,))
        connection.commit()
    with queries.reader(path) as query, pytest.raises(TelemetryError, match="damaged"):
        queries.latency_summary(query, 0)


def test_a_reader_may_not_write(path: Path) -> None:
    with closing(schema.open_for_reading(path)) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("DELETE FROM events")


def test_the_writer_goes_on_while_a_reader_reads(path: Path) -> None:
    with queries.reader(path) as query:
        queries.events(query, 0)
        telemetry = Telemetry(path, 8, clock=lambda: 1000.0)
        telemetry.event("during", "a query")
        assert telemetry.flush()
        assert queries.events(query, 1000)[-1]["text"] == "a query"
        telemetry.close()


def test_a_reader_who_may_not_write_the_folder(path: Path) -> None:
    """As an unprivileged user of the node; root, who may write everywhere, becomes one in a child."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        copy = Path(folder) / path.name
        copy.chmod(0o644)
        copy.parent.chmod(0o555)
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                if os.geteuid() == 0:
                    os.setuid(65534)
                code = 0 if len(queries.recent_events(copy, 2)) == 2 else 1
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        copy.parent.chmod(0o755)
    assert code == 0
