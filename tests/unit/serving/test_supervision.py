"""Back-off, recent latencies, the worker's spec: pure parts of the pool."""

from __future__ import annotations

from pathlib import Path

from agent.hal import ModelFile
from agent.histogram import Histogram
from agent.serving.processes.restart import Backoff
from agent.serving.recent import Recent
from agent.serving.spec import Golden, WorkerSpec
from agent.types import Candidate, TensorSpec


def test_backoff_begins_at_once_doubles_and_gives_up_after_five_crashes_in_a_minute() -> None:
    backoff = Backoff()
    assert [backoff.crashed(now) for now in (0.0, 1.0, 2.0, 3.0)] == [0.0, 0.1, 0.2, 0.4]
    assert not backoff.given_up
    assert backoff.crashed(4.0) == 60.0 and backoff.given_up
    backoff.started(70.0)
    assert backoff.crashed(71.0) == 60.0  # still: it was not stable for a minute
    backoff.started(140.0)
    assert backoff.crashed(201.0) == 0.0 and not backoff.given_up


def test_backoff_is_at_most_ten_seconds_for_rare_crashes() -> None:
    backoff = Backoff()
    delays = []
    for crash in range(12):
        delays.append(backoff.crashed(crash * 30.0))
        backoff.started(crash * 30.0 + 1)
    assert max(delays) == 10.0 and not backoff.given_up


def histogram(seconds: float, count: int) -> Histogram:
    result = Histogram()
    for _ in range(count):
        result.add(seconds)
    return result


def test_recent_latencies_fall_off_while_totals_stay() -> None:
    recent = Recent()
    recent.add(0.0, histogram(0.001, 3), 1)
    recent.add(200.0, histogram(0.010, 2), 0)
    assert recent.histogram(250.0).total == 5
    assert recent.histogram(400.0).total == 2
    assert recent.histogram(1000.0).total == 0
    assert (recent.requests, recent.errors) == (6, 1)


def test_late_answers_are_told_by_the_buckets_above_the_limit() -> None:
    seen = histogram(0.001, 3)
    seen.merge(histogram(0.010, 2).counts)
    assert (seen.over(0.0005), seen.over(0.001), seen.over(0.005), seen.over(0.011)) == (5, 2, 2, 0)


def test_spec_crosses_to_the_worker(tmp_path: Path) -> None:
    spec = WorkerSpec(
        model="m",
        version="1.0+x",
        digest="a" * 64,
        board="local",
        board_folder=Path("/nonexistent"),
        candidate=Candidate("int8", "litert", "cpu"),
        file=ModelFile(
            tmp_path / "m.tflite",
            "tflite",
            (TensorSpec("ü", "INT8", (-1, 3)),),
            (TensorSpec("y", "BOOL", ()),),
            2,
        ),
        golden=Golden(4, {"ü": tmp_path / "x"}, {"y": tmp_path / "y"}, 0.5, 0.25),
        max_body_bytes=7,
    )
    assert WorkerSpec.from_json(spec.to_json()) == spec
