"""What a run of many nodes is summed up to, from what passed the broker and what the nodes recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.link.blocks import encode_frame
from agent.link.client import Message
from agent.link.messages import BlockRequest, Reported, ReportedModel, Status
from agent.link.messages import Message as Payload
from agent.link.topics import Target, block_data, block_requests
from agent.telemetry.writer import Telemetry
from agent.types import Budget, Candidate, Measurement, Phase, Placement, State, Verdict
from simulator.nodes.node import SimNode
from simulator.nodes.observer import Observer, Wire
from simulator.nodes.process import Footprint
from simulator.nodes.report import MAX_FAILURES, Outcome, quantile, read_outcomes, summarise

PACKAGE, OTHER = "a" * 64, "b" * 64
CHOSEN = Candidate("int8", "onnxruntime", "fpga")


def seen(*messages: tuple[str, bytes], retain: bool = False, since: float = 0.0) -> Observer:
    observer = Observer("lab", ["sim-000", "sim-001"], since)
    for topic, payload in messages:
        observer.handle(Message(topic, payload, retain, lambda: None))
    return observer


def said(node: str, kind: str, payload: Payload) -> tuple[str, bytes]:
    return Target("lab", node).topic(kind), payload.encode()


def reported(node: str, state: State, phase: Phase | None = None) -> tuple[str, bytes]:
    model = ReportedModel(name="digits", version="1.0.0", state=state, phase=phase)
    return said(node, "reported", Reported(revision_seen=1, revision_applied=0, time=1.0, models=[model]))


BORN = Status(online=True, boot_id="b1")


def test_the_observer_counts_its_own_nodes_as_they_are_now() -> None:
    observer = seen(
        said("sim-000", "status", BORN), said("sim-001", "status", BORN), said("cam-7", "status", BORN),
        reported("sim-000", State.IN_PROGRESS, Phase.DOWNLOADING), reported("sim-000", State.FAILED),
        reported("sim-001", State.IN_PROGRESS, Phase.SOAKING), reported("cam-7", State.SUCCEEDED),
        ("overlaid/v1/lab/sim-000/reported", b"rubbish"), ("overlaid/v1/lab/odd", b""),
    )  # fmt: skip
    assert observer.online == 2
    assert observer.states("digits") == {"FAILED": 1, "SOAKING": 1} == observer.states(None)
    assert observer.states("other") == {}
    assert observer.ended("digits") == {"sim-000"}
    assert observer.wire.control_bytes > 0


def test_what_was_retained_before_belongs_to_an_earlier_run() -> None:
    old = said("sim-000", "status", BORN), reported("sim-000", State.SUCCEEDED)
    observer = seen(*old, retain=True, since=1.1)
    assert observer.online == 0 and observer.ended("digits") == set()


def test_a_report_that_was_missed_while_the_broker_was_away_is_heard_from_what_it_retains() -> None:
    observer = seen(reported("sim-000", State.SUCCEEDED), retain=True, since=0.9)
    assert observer.ended("digits") == {"sim-000"}


def test_blocks_are_counted_once_each_and_as_often_as_they_are_sent() -> None:
    frames = [encode_frame(sha * 64, b"data") for sha in ("1", "2", "1")]
    observer = seen(
        *((block_data("lab", PACKAGE), frame) for frame in frames), (block_data("lab", OTHER), frames[0]),
        (block_requests("lab", PACKAGE), BlockRequest(blocks=["1" * 64]).encode()),
        (block_data("lab", OTHER), b"short"),
    )  # fmt: skip
    assert observer.wire == Wire(blocks=3, frames=4, frame_bytes=4 * 36, requests=1)
    assert observer.wire.sent_each == pytest.approx(4 / 3)
    assert Wire().sent_each is None


class Stopped:
    """A node that has ended, as far as the report looks at it."""

    def __init__(self, folder: Path, error: str = "") -> None:
        self.name, self.board, self.received_bytes, self.error = "sim-000", "kv260", 1000, error
        self.telemetry = folder / "telemetry.db"

    def outcomes(self, model: str | None = None) -> list[Outcome]:
        return list(read_outcomes(cast(SimNode, self), model))


def record(path: Path, *steps: tuple[float, State, Phase | None, str]) -> None:
    now = 0.0
    telemetry = Telemetry(path, 8, clock=lambda: now)
    for now, state, phase, why in steps:  # noqa: B007 (the clock reads it)
        telemetry.deployment("digits", "1.0.0", PACKAGE, state, phase, why)
    measurement = Measurement(
        CHOSEN, 100, 1.0, 0.9, 1.2, 0.99, 0.1, 5.0, 1.0, joules=0.002, energy="simulated"
    )
    placement = Placement(
        "digits", "1.0.0", PACKAGE, Budget(20.0, 10.0), CHOSEN, "least energy",
        (Verdict(Candidate("fp32", "onnxruntime", "cpu"), False, "more"), Verdict(CHOSEN, True, "", measurement)), 1.0,
    )  # fmt: skip
    telemetry.placement(placement)
    telemetry.close()


def test_a_nodes_own_record_tells_how_its_last_deployment_went(tmp_path: Path) -> None:
    node = Stopped(tmp_path)
    record(
        node.telemetry,
        (1.0, State.QUEUED, None, ""), (2.0, State.FAILED, None, "an earlier one"), (10.0, State.QUEUED, None, ""),
        (10.5, State.IN_PROGRESS, Phase.DOWNLOADING, ""), (12.0, State.IN_PROGRESS, Phase.VERIFYING, ""),
        (12.25, State.SUCCEEDED, Phase.SOAKING, "fits"),
    )  # fmt: skip
    (outcome,) = node.outcomes()
    assert (outcome.model, outcome.state, outcome.why, outcome.seconds) == (
        "digits",
        "SUCCEEDED",
        "fits",
        2.25,
    )
    assert outcome.phases == {"QUEUED": 0.5, "DOWNLOADING": 1.5, "VERIFYING": 0.25}
    assert (outcome.chosen, outcome.p50_ms, outcome.p99_ms) == ("int8 on fpga", 0.9, 1.2)
    assert outcome.mj == pytest.approx(2.0)
    assert [each.state for each in node.outcomes("other")] == [""]


def test_a_deployment_under_way_has_no_end_and_a_node_that_ended_says_why(tmp_path: Path) -> None:
    node = Stopped(tmp_path)
    record(node.telemetry, (1.0, State.QUEUED, None, ""), (2.0, State.IN_PROGRESS, Phase.PROFILING, ""))
    (outcome,) = node.outcomes()
    assert (outcome.state, outcome.seconds) == ("IN_PROGRESS", None)
    (lost,) = Stopped(tmp_path, "StoreError: the disk is full").outcomes()
    assert (lost.state, lost.why) == ("ENDED", "StoreError: the disk is full")
    (unread,) = Stopped(tmp_path / "nowhere").outcomes()
    assert unread.state == "ENDED" and "telemetry.db" in unread.why


def outcome(number: int, **more: object) -> Outcome:
    fields = {"model": "digits", "state": "SUCCEEDED", "seconds": float(number), "mj": float(number), **more}
    return replace(Outcome(f"sim-{number:03d}", "kv260", 100), **fields)  # type: ignore[arg-type]


def test_a_report_sums_up_by_board_and_by_reason() -> None:
    bad = {"state": "FAILED", "mj": None}
    outcomes = [
        outcome(1), outcome(2), outcome(3, board="rpi5", chosen="int8 on cpu"),
        outcome(4, **bad, why="GoldenMismatch: digits (a on b)"),
        outcome(5, **bad, why="GoldenMismatch: digits (c on d)"),
        outcome(6, **bad, why="DeviceLost: gone"), outcome(7, state="", seconds=None, model="", mj=None),
    ]  # fmt: skip
    report = summarise(7, outcomes, Wire(2, 3, 300), Footprint(), False)
    assert report.states == {"SUCCEEDED": 3, "FAILED": 3, "": 1} and not report.all_succeeded
    assert (report.deploy_p50_s, report.deploy_max_s, report.received_bytes) == (3.0, 6.0, 700)
    assert [(f.count, f.node, f.why.partition(":")[0]) for f in report.failures] == [
        (2, "sim-004", "GoldenMismatch"), (1, "sim-006", "DeviceLost")
    ]  # fmt: skip
    kv260, rpi5 = report.boards
    assert (kv260.board, kv260.nodes, kv260.mj_per_run) == ("kv260", 6, 1.5)
    assert (rpi5.chosen, rpi5.deploy_p95_s) == ({"int8 on cpu": 1}, 3.0)
    assert summarise(2, [outcome(1), outcome(2)], Wire(), Footprint(), False).all_succeeded
    assert not summarise(
        3, [outcome(1), outcome(2)], Wire(), Footprint(), False
    ).all_succeeded  # one never started
    assert not summarise(0, [], Wire(), Footprint(), False).all_succeeded
    many = [outcome(n, **bad, why=f"Error{n}: x") for n in range(20)]
    assert len(summarise(20, many, Wire(), Footprint(), False).failures) == MAX_FAILURES


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_one_of_the_values_and_covers_its_share(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-9
