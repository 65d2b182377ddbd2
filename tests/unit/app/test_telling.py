"""What the node tells its operator of what it recorded and of how deployments ended: each once, over restarts, full
disks and clocks that jump."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.app import endings as endings_module
from agent.app.endings import Endings
from agent.app.uplink import Uplink
from agent.deploy.journal import Deployment, Journal
from agent.errors import LinkError, TelemetryError
from agent.histogram import Histogram
from agent.link.messages import DeploymentEnd, TelemetryBatch, parse
from agent.link.outbox import Outbox
from agent.link.topics import Target
from agent.telemetry.writer import Telemetry
from agent.types import Budget, Candidate, DesiredModel, State

NODE = Target("site", "cam-7")
CPU = Candidate("int8", "onnxruntime", "cpu")


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A node's folder; ``boot`` opens what the last boot left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.boot()

    def boot(self) -> None:
        self.telemetry = Telemetry(self.folder / "telemetry.db", 8, clock=self.clock)
        self.journal = Journal(self.folder / "state.db", self.clock)
        self.outbox = Outbox(self.folder / "outbox.db", 1 << 20, lambda _: None)
        self.uplink = Uplink(NODE, "b", self.folder / "telemetry.db", self.outbox, 1.0)
        self.endings = Endings(NODE, "b", self.journal, self.outbox)

    def halt(self) -> None:
        self.telemetry.close()
        self.journal.close()
        self.outbox.close()

    def serve(self, count: int) -> None:
        histogram = Histogram()
        for _ in range(count):
            histogram.add(0.001)
        self.telemetry.latency("digits", "1.0.0", CPU, histogram, 0)
        assert self.telemetry.flush()

    def sum_up(self) -> None:
        asyncio.run(self.uplink._sum_up())

    def deploy(self, state: State) -> Deployment:
        model = DesiredModel("digits", "1.0.0", "ab" * 32, Budget(20.0, 10.0))
        deployment = self.journal.queue("fleet", "site/cam-7", 1, model)
        self.journal.begin(deployment)
        if state.final:
            self.journal.finish(deployment, state, "why")
        return deployment

    def waiting(self, stream: str) -> list[TelemetryBatch]:
        """Batches in the outbox."""
        found = self.outbox._spool.first(1000, 1 << 30, ())
        return [parse(TelemetryBatch, one.payload) for one in found if one.topic == NODE.telemetry(stream)]

    def ends(self) -> list[tuple[int, State]]:
        rows = [
            parse(DeploymentEnd, json.dumps(row).encode())
            for batch in self.waiting("events")
            for row in batch.rows
        ]
        return [(row.id, row.state) for row in rows]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.serve(1)
    yield bench
    bench.halt()


def requests(bench: Bench) -> list[int]:
    return [row["requests"] for batch in bench.waiting("summary") for row in batch.rows]


def test_each_row_counts_in_one_batch_over_restarts_and_clocks_that_jump(bench: Bench) -> None:
    bench.sum_up()
    assert requests(bench) == []  # what was before there was a broker
    bench.serve(10)
    bench.clock.now += 365 * 86_400
    bench.serve(20)
    bench.sum_up()
    bench.clock.now = 0.0
    bench.serve(40)
    bench.sum_up()
    bench.sum_up()
    bench.serve(80)
    bench.halt()
    bench.boot()
    bench.clock.now = 1_800_000_000.0
    bench.serve(160)
    bench.sum_up()
    assert requests(bench) == [30, 40, 240]
    batches = bench.waiting("summary")
    assert [batch.sequence for batch in batches] == [1, 2, 3] and len(
        {batch.series for batch in batches}
    ) == 1
    bench.halt()


def test_the_first_rows_of_a_new_node_count(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    asyncio.run(bench.uplink._begin())
    bench.serve(7)
    bench.sum_up()
    assert requests(bench) == [7]
    bench.halt()


def test_a_disk_that_refuses_makes_the_next_batch_longer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sum_up()
    bench.serve(10)
    monkeypatch.setattr(bench.outbox._spool, "append", refuse)
    with pytest.raises(LinkError):
        bench.sum_up()
    monkeypatch.undo()
    bench.serve(20)
    bench.sum_up()
    assert requests(bench) == [30]
    bench.halt()


def refuse(*_: object) -> None:
    raise LinkError("full")


def test_many_rows_are_several_messages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.app.uplink.BATCH_ROWS", 1)
    bench.sum_up()
    bench.serve(1)
    bench.telemetry.latency("other", "1.0.0", CPU, one_answer(), 0)
    assert bench.telemetry.flush()
    bench.sum_up()
    assert [(batch.sequence, len(batch.rows)) for batch in bench.waiting("summary")] == [(1, 1), (2, 1)]
    bench.halt()


def one_answer() -> Histogram:
    histogram = Histogram()
    histogram.add(0.001)
    return histogram


def drain(endings: Endings) -> None:
    while endings._tell():
        pass


def test_each_end_is_told_once_also_when_a_kill_came_first(bench: Bench) -> None:
    first, still, second = (
        bench.deploy(state) for state in (State.SUCCEEDED, State.IN_PROGRESS, State.FAILED)
    )
    drain(bench.endings)
    assert bench.ends() == [(first.id, State.SUCCEEDED), (second.id, State.FAILED)]
    third = bench.deploy(State.CANCELED)  # and killed before it was told
    bench.journal.finish(still, State.TIMED_OUT, "late")
    bench.halt()
    bench.boot()
    drain(bench.endings)
    assert bench.ends()[2:] == [(still.id, State.TIMED_OUT), (third.id, State.CANCELED)]
    assert len({batch.series for batch in bench.waiting("events")}) == 1
    assert [batch.sequence for batch in bench.waiting("events")] == [1, 2]
    bench.halt()


def test_a_lost_outbox_has_all_told_again(bench: Bench) -> None:
    told = [(bench.deploy(State.SUCCEEDED).id, State.SUCCEEDED) for _ in range(3)]
    drain(bench.endings)
    bench.outbox.close()
    (bench.folder / "outbox.db").write_bytes(b"damaged" * 1000)
    bench.outbox.put("r", b"")
    drain(bench.endings)
    assert bench.outbox.damaged == 1 and bench.ends() == told
    bench.halt()


def test_what_was_told_is_remembered_no_longer_than_the_journal_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.deploy.journal.HISTORY_ROWS", 5)
    for _ in range(20):
        bench.deploy(State.SUCCEEDED)
        drain(bench.endings)
    assert len(bench.ends()) == 20 and bench.endings._told is not None and len(bench.endings._told) <= 6
    bench.halt()


def test_endings_are_told_soon_and_again_after_a_disk_that_refuses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings_module, "GATHER_S", 0.01)
    monkeypatch.setattr(endings_module, "RETRY_S", 0.01)

    async def run() -> None:
        work = asyncio.ensure_future(bench.endings.run())
        with monkeypatch.context() as broken:
            broken.setattr(bench.outbox._spool, "append", refuse)
            bench.deploy(State.SUCCEEDED)
            bench.endings.look()
            await asyncio.sleep(0.05)
            assert not bench.ends()
        await until(lambda: len(bench.ends()) == 1)
        bench.deploy(State.FAILED)
        bench.endings.look()
        await until(lambda: len(bench.ends()) == 2)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    asyncio.run(run())
    bench.halt()


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_telemetry_database_that_cannot_be_read_is_tried_again(bench: Bench) -> None:
    bench.sum_up()
    bench.serve(10)
    path = bench.folder / "telemetry.db"
    moved = path.rename(path.with_name("away.db"))
    try:
        with pytest.raises(TelemetryError, match="no telemetry"):
            bench.sum_up()
    finally:
        moved.rename(path)
    bench.sum_up()
    assert requests(bench) == [10]
    bench.halt()


def test_a_journal_that_began_anew_is_told_although_its_numbers_were_used(bench: Bench) -> None:
    for _ in range(3):
        bench.deploy(State.SUCCEEDED)
    drain(bench.endings)
    bench.journal.close()
    for path in bench.folder.glob("state.db*"):
        path.unlink()
    bench.clock.now += 60.0
    bench.journal = Journal(bench.folder / "state.db", bench.clock)
    bench.endings = Endings(NODE, "b", bench.journal, bench.outbox)
    again = bench.deploy(State.FAILED)
    drain(bench.endings)
    assert bench.ends()[3:] == [(again.id, State.FAILED)]
    bench.halt()
