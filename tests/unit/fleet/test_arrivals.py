"""What nodes send at least once is in operator.db once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.fleet.arrivals import MAX_SERIES, Arrival
from agent.fleet.operator import Operator
from agent.fleet.views import Heard
from agent.link.messages import DeploymentEnd, Result, TelemetryBatch
from agent.types import State


def batch(
    sequence: int, series: str = "s1", stream: str = "summary", rows: tuple[Any, ...] = (), at: float = 1.0
) -> Heard:
    message = TelemetryBatch(series=series, boot_id="b", sequence=sequence, time=at, rows=list(rows))
    return Heard("cam-7", "telemetry", at, message, stream=stream)


def end(number: int, ended: float = 5.0) -> DeploymentEnd:
    return DeploymentEnd(
        id=number, ended=ended, origin="fleet", target="site/cam-7", revision=1, model="digits", version="1.0.0",
        digest="ab" * 32, state=State.FAILED, why="no",
    )  # fmt: skip


def row(number: int, ended: float = 5.0) -> dict[str, Any]:
    return end(number, ended).model_dump(mode="json")


def test_batches_are_counted_and_gaps_shown_over_reopening(tmp_path: Path) -> None:
    path = tmp_path / "operator.db"
    with Operator(path) as operator:
        arrived = [arrival for _, arrival in operator.record(batch(n) for n in (1, 2, 2))]
        assert arrived == [Arrival(True), Arrival(True), Arrival(False)]
    with Operator(path) as operator:
        arrived = [arrival for _, arrival in operator.record(batch(n) for n in (6, 4, 2))]
        assert arrived == [Arrival(True, (3, 5)), Arrival(True), Arrival(False)]
        (stream,) = operator.streams("cam-7")
        tally = stream.tally
        assert (stream.name, stream.series) == ("summary", "s1")
        assert (tally.last, tally.received, tally.duplicates, tally.gaps) == (6, 4, 2, ((3, 3), (5, 5)))
        assert operator.streams("cam-8") == []


def test_a_new_series_of_a_known_node_begins_at_one_and_few_are_kept(tmp_path: Path) -> None:
    with Operator(tmp_path / "operator.db") as operator:
        assert operator.record([batch(40)])[0][1] == Arrival(True)
        assert operator.record([batch(3, "s2", at=2.0)])[0][1] == Arrival(True, (1, 2))
        for number in range(3, 12):
            operator.record([batch(1, f"s{number}", at=float(number))])
        assert [stream.series for stream in operator.streams("cam-7")] == ["s11", "s10", "s9", "s8"][
            :MAX_SERIES
        ]


def test_an_end_of_a_deployment_arrives_once_whatever_series_tells_it(tmp_path: Path) -> None:
    with Operator(tmp_path / "operator.db") as operator:
        (first,) = operator.record([batch(1, stream="events", rows=(row(1), row(2)))])
        assert first[1].ends == (end(1), end(2))
        told_again = batch(
            1, "s2", "events", (row(1), row(2), row(3), {"stream": "deployment"}, {"other": 1})
        )
        (again,) = operator.record([told_again])
        assert again[1] == Arrival(True, None, (end(3),))
        (anew,) = operator.record(
            [batch(2, "s2", "events", (row(1, ended=9.0),))]
        )  # a journal that was lost counts anew
        assert anew[1].ends == (end(1, ended=9.0),)
        assert [(one.id, one.ended) for one in operator.ends("cam-7")] == [
            (1, 9.0),
            (3, 5.0),
            (2, 5.0),
            (1, 5.0),
        ]
        (other,) = operator.record([batch(3, stream="summary", rows=(row(8),))])
        assert other[1].ends == ()


def test_a_result_that_comes_again_is_not_new(tmp_path: Path) -> None:
    result = Heard("cam-7", "result", 1.0, Result(id="c1", op="logs", state=State.SUCCEEDED))
    with Operator(tmp_path / "operator.db") as operator:
        assert [arrival.new for _, arrival in operator.record([result, result])] == [True, False]
