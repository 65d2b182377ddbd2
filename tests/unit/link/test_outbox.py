"""What the outbox keeps, drops, sends and reports. The broker is played by a link whose futures the test settles."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import LinkError
from agent.link import outbox as module
from agent.link.client import MqttLink
from agent.link.outbox import Outbox
from agent.link.spool import SCHEMA_VERSION, Priority, _used

PLENTY = 1 << 20


def kept(path: Path) -> list[tuple[str, bytes, int]]:
    """What a power cut would leave: a copy of the files as they are, the outbox holding its own open."""
    copy = Path(tempfile.mkdtemp(dir=path.parent))
    for file in path.parent.glob(path.name + "*"):
        shutil.copy(file, copy)
    database = sqlite3.connect(copy / path.name)
    try:
        return database.execute("SELECT topic, payload, priority FROM outbox ORDER BY id").fetchall()
    finally:
        database.close()


class Told(list[str]):
    """Lines that the outbox told."""

    def __call__(self, text: str) -> None:
        self.append(text)


class Wire:
    """A link that is connected and acknowledges what ``takes`` says."""

    def __init__(self, takes: Callable[[bytes], bool] = lambda _: True) -> None:
        self.takes, self.sent = takes, list[bytes]()

    async def connected(self) -> bool:
        await asyncio.sleep(0)
        return True

    def publish(self, _topic: str, payload: bytes, qos: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append(payload)
        if self.takes(payload):
            future.set_result(None)
        else:
            future.set_exception(LinkError("no"))
        assert qos == 1
        return future


async def send(box: Outbox, wire: Wire, enough: Callable[[], bool]) -> None:
    """Run the outbox until there was enough."""
    run = asyncio.ensure_future(box.run(cast(MqttLink, wire)))
    while not enough():
        await asyncio.sleep(0)
        assert not run.done(), run.exception()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


def refuse_writes(box: Outbox, refused: bool = True) -> None:
    """As a disk that is full: pages that exist can be read, nothing can be written."""
    db = box._spool._db
    assert db is not None
    db.execute(f"PRAGMA query_only = {int(refused)}")


def number(series: str, sequence: int, part: object) -> bytes:
    return f"{series} {sequence} {part}".encode()


def test_messages_are_on_the_disk_at_once_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    first = Outbox(path, PLENTY)
    first.put("a", b"\x00\xff", Priority.EVENT)
    first.put("b", b"")
    assert kept(path) == [("a", b"\x00\xff", 1), ("b", b"", 2)]
    first.close()
    second = Outbox(path, PLENTY)
    assert len(second) == 2
    second.close()


@settings(max_examples=25, deadline=None)
@given(
    messages=st.lists(st.tuples(st.sampled_from(Priority), st.integers(0, 9000)), max_size=40),
    limit=st.integers(60_000, 150_000),
)
def test_the_oldest_of_the_lowest_priority_go_first(
    tmp_path_factory: pytest.TempPathFactory, messages: list[tuple[Priority, int]], limit: int
) -> None:
    path = tmp_path_factory.mktemp("outbox") / "outbox.db"
    box = Outbox(path, limit)
    model: list[tuple[Priority, int, int]] = []
    for index, (priority, size) in enumerate(messages):
        box.put("t", bytes(size), priority)
        model.append((priority, index, size))
        assert len(box) == len(model) or sum(row[2] for row in model) > limit / 3  # no more than needed
        while len(model) > len(box):
            model.remove(min(model))
    assert [(row[2], len(row[1])) for row in kept(path)] == [
        (m[0], m[2]) for m in sorted(model, key=lambda m: m[1])
    ]
    assert box.dropped == len(messages) - len(model)
    box.close()
    assert path.stat().st_size <= limit + (16 << 10)
    again = Outbox(path, limit)
    assert len(again) == len(model)
    again.close()


def test_a_smaller_limit_after_a_restart_trims_what_is_too_much(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    box = Outbox(path, PLENTY)
    for index in range(100):
        box.put("t", b"%02d" % index + bytes(3000))
    box.close()
    box = Outbox(path, 100_000)
    box.put("t", b"!!")
    numbers = [row[1][:2] for row in kept(path)]
    assert 10 < len(numbers) < 25 and numbers[-2:] == [b"99", b"!!"] and numbers[0] > b"75"
    box.close()


def test_numbers_go_on_over_restarts_and_a_loss_of_the_file_begins_a_new_series(tmp_path: Path) -> None:
    path, told = tmp_path / "outbox.db", Told()

    def append(box: Outbox, *parts: str) -> None:
        box.append("s", parts, number, Priority.TELEMETRY, {"at": parts[-1]})

    box = Outbox(path, PLENTY, told)
    append(box, "a", "b")
    box.append("other", ["x"], number, Priority.EVENT, {})
    box.close()
    box = Outbox(path, PLENTY, told)
    append(box, "c")
    assert box.note("at") == "c" and box.note("never") is None
    rows = [row[1].decode().split() for row in kept(path)]
    (series,) = {row[0] for row in rows}
    assert [row[1:] for row in rows] == [["1", "a"], ["2", "b"], ["1", "x"], ["3", "c"]]
    box.close()
    path.write_bytes(b"not a database" * 300)
    box = Outbox(path, PLENTY, told)
    append(box, "d")
    assert box.damaged == 1 and path.with_name("outbox.db.damaged").exists()
    assert "is damaged" in told[0] and "kept as outbox.db.damaged" in told[0] and not box.problem
    new, *rest = kept(path)[0][1].decode().split()
    assert new != series and rest == ["1", "d"]
    box.close()


def test_an_append_that_fails_numbers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    box = Outbox(path, PLENTY)

    def breaks(series: str, sequence: int, part: str) -> bytes:
        return number(series, sequence, part) if part == "a" else bytes(2 << 20)

    with pytest.raises(LinkError, match="more than"):
        box.append("s", ["a", "b"], breaks, Priority.EVENT, {"at": 1})
    assert len(box) == 0 and box.note("at") is None and kept(path) == []
    refuse_writes(box)
    with pytest.raises(LinkError, match="cannot be used"):
        box.append("s", ["a"], number, Priority.EVENT, {"at": 1})
    assert box.problem
    box.append("s", ["a"], number, Priority.EVENT, {"at": 1})  # the file was opened again
    assert kept(path)[0][1].split()[1] == b"1" and not box.problem
    box.close()


def test_the_highest_priority_is_sent_first_each_in_order_and_what_is_refused_again(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db", PLENTY)
    for index in range(100):
        box.put("t", b"t%02d" % index, Priority.TELEMETRY)
    for index in range(3):
        box.put("e", b"e%d" % index, Priority.EVENT)
    box.put("r", b"r")
    asyncio.run(send(box, wire := Wire(), lambda: len(box) == 0))
    assert wire.sent == [b"r", b"e0", b"e1", b"e2", *(b"t%02d" % index for index in range(100))]
    box.put("r", b"r")

    async def refused() -> None:
        wire = Wire(lambda _: len(wire.sent) > 1)
        await send(box, wire, lambda: len(box) == 0)
        assert wire.sent == [b"r", b"r"]

    asyncio.run(refused())
    box.close()


def test_few_of_many_large_messages_are_in_memory_at_once(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db", 256 << 20)
    for _ in range(160):
        box.put("t", bytes(1 << 20), Priority.TELEMETRY)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(send(box, wire := CountingWire(), lambda: len(box) == 0))
    assert (wire.count, wire.most) == (160, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10
    box.close()


class CountingWire(Wire):
    """Keeps nothing of what is sent; ``most`` at once."""

    count = most = 0
    _open = 0

    def publish(self, topic: str, payload: bytes, qos: int) -> asyncio.Future[None]:
        future = super().publish(topic, payload, qos)
        self.sent.clear()
        self.count += 1
        self._open += 1
        self.most = max(self.most, self._open)
        asyncio.get_running_loop().call_soon(self._done)
        return future

    def _done(self) -> None:
        self._open -= 1


def test_a_disk_that_refuses_holds_up_neither_results_nor_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    told = Told()
    path = tmp_path / "outbox.db"
    box = Outbox(path, PLENTY, told)
    box.put("t", b"before")
    real = box._spool._transaction

    def full() -> Any:
        raise LinkError("the outbox in x cannot be used: database or disk is full")

    monkeypatch.setattr(box._spool, "_transaction", full)
    box.put("r", b"while")
    assert "full" in box.problem and len(box) == 2 and len(told) == 1

    async def run() -> None:
        wire = Wire()
        run = asyncio.ensure_future(box.run(cast(MqttLink, wire)))
        while len(wire.sent) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        # What cannot be deleted is not sent again and again.
        assert wire.sent == [b"while", b"before"] and len(box) == 1 and len(told) == 1
        monkeypatch.setattr(box._spool, "_transaction", real)
        while len(box):
            await asyncio.sleep(0.005)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert not box.problem and kept(path) == [] and len(wire.sent) == 2

    asyncio.run(run())
    box.close()


def test_memory_holds_little_while_the_disk_refuses(tmp_path: Path) -> None:
    told = Told()
    box = Outbox(tmp_path / "absent" / "outbox.db", PLENTY, told)
    for index in range(40):
        box.put("r", b"%02d" % index + bytes(100_000))
    assert len(told) == 1 and "cannot be used" in told[0]
    assert len(box) == 10 and box.dropped == 30
    (tmp_path / "absent").mkdir()
    box.put("r", b"99")
    assert [row[1][:2] for row in kept(tmp_path / "absent" / "outbox.db")] == [
        *(b"%02d" % index for index in range(30, 40)), b"99",
    ]  # fmt: skip
    with pytest.raises(LinkError, match="more than"):
        box.put("t", bytes((1 << 20) + 1))
    asyncio.run(send(box, Wire(), lambda: len(told) == 2))
    assert "30 messages for the operator were dropped" in told[1]
    box.close()


def test_damage_that_shows_later_is_put_aside_and_rows_of_the_new_file_stay(tmp_path: Path) -> None:
    path, told = tmp_path / "outbox.db", Told()
    box = Outbox(path, PLENTY, told)
    for index in range(40):
        box.put("t", b"%02d" % index + bytes(9000), Priority.TELEMETRY)
    box.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xa5" * (len(whole) - 8192))
    box = Outbox(path, PLENTY, told)
    asyncio.run(send(box, Wire(), lambda: box.damaged == 1))
    assert "kept as outbox.db.damaged" in told[-1] and len(box) == 0
    box._undeleted.add(("of-the-old-file", 1))
    box.put("t", b"new")
    asyncio.run(send(box, wire := Wire(), lambda: len(box) == 0))
    assert wire.sent == [b"new"] and not box._undeleted
    box.close()


def test_an_outbox_of_an_older_version_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(
            "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,"
            " priority INTEGER NOT NULL) STRICT"
        )
        db.execute("INSERT INTO outbox (topic, payload, priority) VALUES ('t', x'41', 0)")
    db.close()
    box = Outbox(path, PLENTY)
    box.append("s", ["a"], number, Priority.TELEMETRY, {})
    assert [row[1][-1:] for row in kept(path)] == [b"A", b"a"]
    box.close()


def test_a_week_of_batches_of_ten_models_at_the_default_interval_fits_the_default_cap(tmp_path: Path) -> None:
    from agent.config import Telemetry
    from agent.link.messages import TelemetryBatch

    row = {
        "stream": "latency", "model": "camera-north-1", "version": "1.2.3", "variant": "int8", "backend": "onnxruntime",
        "device": "cpu", "requests": 123456, "errors": 0, "p50_ms": 12.345678901234567, "p99_ms": 23.456789012345678,
        "first": 1760000005.1234567, "last": 1760000055.1234567,
    }  # fmt: skip
    rail = {
        "stream": "power",
        "rail": "package",
        "tag": "measured",
        "average_w": 3.1234567890123,
        "max_w": 4.0,
        "samples": 60,
    }
    batch = TelemetryBatch(
        series="s" * 12,
        boot_id="b" * 32,
        sequence=10_000,
        time=1760000060.1234567,
        rows=[row] * 10 + [rail] * 3,
    )
    box = Outbox(tmp_path / "outbox.db", 64 << 20)
    db = box._spool._db
    assert db is not None
    before = _used(db)
    box.append(
        "overlaid/v1/site/node/telemetry/summary",
        range(200),
        lambda *_: batch.encode(),
        Priority.TELEMETRY,
        {},
    )
    a_batch = (_used(db) - before) / 200
    week = 7 * 86_400 / Telemetry().publish_s
    assert week * a_batch <= Telemetry().outbox_mb << 20
    box.close()


def test_an_outbox_of_a_newer_overlaid_is_left_as_it_is_and_the_way_back_named(tmp_path: Path) -> None:
    path, told = tmp_path / "outbox.db", Told()
    first = Outbox(path, PLENTY)
    first.put("t", b"waits")
    first.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    older = Outbox(path, PLENTY, told)
    assert (
        "go back to the overlaid that wrote it" in older.problem and f"mv {path} {path}.v9" in older.problem
    )
    older.put("t", b"new")  # in memory, for what is sent while this version runs
    assert [payload for _, payload, _ in kept(path)] == [b"waits"]
    older.close()


def test_an_outbox_from_before_schemas_were_numbered_is_read(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    first = Outbox(path, PLENTY)
    first.put("t", b"waits")
    first.close()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        database.execute("PRAGMA user_version = 0")
    database.close()
    second = Outbox(path, PLENTY)
    assert len(second) == 1 and not second.problem
    second.close()
