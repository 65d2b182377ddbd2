"""What workers tell of their runs makes profiles surer, at most every ten minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.deploy.journal import Journal
from agent.deploy.refining import REFINE_S, Refining
from agent.errors import StoreError
from agent.histogram import Histogram
from agent.placement.profile import OpenLoop, Profile
from agent.placement.profile.cache import Key
from agent.types import BackendInfo, BoardInfo, Budget, Candidate, DeviceInfo, Measurement, Placement, Verdict

CANDIDATE, OTHER = Candidate("v", "onnxruntime", "cpu"), Candidate("w", "onnxruntime", "cpu")
BOARD = BoardInfo(
    "b", False, (DeviceInfo("cpu", "cpu", "a CPU", (BackendInfo("onnxruntime", "1", ("onnx",)),)),)
)
KEY = Key.of("a" * 64, CANDIDATE, BOARD, 1)
MEASURED = Measurement(CANDIDATE, 60, 1.0, 1.0, 1.3, 0.45, 0.1, 10.0, None, 0.01, "measured", 0.1, 3.0)


def placement(measured: Measurement = MEASURED) -> Placement:
    verdicts = (
        Verdict(CANDIDATE, True, "", measured), Verdict(OTHER, False, "", replace(measured, candidate=OTHER))
    )  # fmt: skip
    return Placement("digits", "1", "a" * 64, Budget(20.0, 10.0), CANDIDATE, "", verdicts, 0.0)


def runs(count: int, ms: float = 1.0, slow_ms: float = 2.0) -> Histogram:
    """Three in a hundred are slow."""
    found = Histogram()
    for number in range(count):
        found.add((slow_ms if number % 100 < 3 else ms) / 1e3)
    return found


class Node:
    """A journal and a clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 50.0
        self.journal = Journal(folder / "state.db")
        self.res = SimpleNamespace(
            journal=self.journal, board=BOARD, board_now=BOARD, settings=SimpleNamespace(threads=1)
        )
        res: Any = self.res
        self.refining = Refining(res, lambda: self.now)

    def serve(self, placed: Placement, *told: Histogram, slowdown: float = 1.0) -> Placement | None:
        """The first refinement, if any, of what is told over a bit more than the time between two."""
        for device in told:
            found = self.refining.note(placed, device, slowdown)
            if found is not None:
                return found
        self.now += REFINE_S
        return self.refining.note(placed, Histogram(), slowdown)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_runs_in_a_power_mode_that_was_set_meanwhile_refine_nothing(node: Node) -> None:
    node.journal.profiles.keep("digits", KEY, Profile(MEASURED))
    node.res.board_now = replace(BOARD, power_mode="7W")
    assert node.serve(placement(), *[runs(100)] * 10) is None
    assert node.journal.profiles.of("digits") == [(KEY, Profile(MEASURED))]


def test_runs_in_service_refine_the_profile_and_the_placement(node: Node) -> None:
    node.journal.profiles.keep("digits", KEY, Profile(MEASURED, OpenLoop(10.0, 5, 1.4, 0.05)))
    got = node.serve(placement(), *[runs(100)] * 10)
    assert got is not None and got.measurement is not None
    assert 2.0 <= got.measurement.p99_ms <= 2.2
    assert got.measurement.runs == 1000 and got.measurement.confidence >= 0.99
    assert got.measurement.joules == 0.01
    assert got.verdicts[1] == placement().verdicts[1]
    ((key, kept),) = node.journal.profiles.of("digits")
    assert key == KEY and kept.measurement.p99_ms == got.measurement.p99_ms and kept.open is not None
    assert node.serve(got, *[runs(100)] * 10) is None  # no more runs than before: nothing new


def test_what_is_not_kept_is_kept_from_then_on(node: Node) -> None:
    assert node.serve(placement(), *[runs(100)] * 10) is not None
    assert len(node.journal.profiles.of("digits")) == 1


def test_few_or_disturbed_runs_change_nothing(node: Node) -> None:
    assert node.serve(placement()) is None
    assert node.serve(placement(), runs(400)) is None
    assert node.serve(placement(), *[runs(100, ms=1.5)] * 20) is None
    assert node.journal.profiles.of("digits") == []


def test_runs_on_a_slow_device_count_as_if_it_was_not(node: Node) -> None:
    got = node.serve(placement(), *[runs(100, 2.0, 4.0)] * 10, slowdown=2.0)
    assert got is not None and got.measurement is not None
    assert 2.0 <= got.measurement.p99_ms <= 2.4


def test_a_move_begins_anew(node: Node) -> None:
    for number in range(20):
        here = placement(replace(MEASURED, p99_ms=1.3 + number))  # another measurement each time
        assert node.refining.note(here, runs(100), 1.0) is None
    assert node.serve(here) is None


def test_joined_runs_say_nothing(node: Node) -> None:
    assert node.serve(placement(replace(MEASURED, max_batch=4)), *[runs(100)] * 10) is None


def test_a_clock_that_goes_back_refines_early_at_worst(node: Node) -> None:
    assert node.refining.note(placement(), runs(1000), 1.0) is None
    node.now -= 1e6
    got = node.refining.note(placement(), Histogram(), 1.0)
    assert got is not None and got.measurement is not None and got.measurement.runs == 1000


@pytest.mark.parametrize("method", ["of", "keep"])
def test_a_disk_that_refuses_ends_nothing(node: Node, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def full(*_: Any) -> Any:
        raise StoreError("disk full")

    monkeypatch.setattr(node.journal.profiles, method, full)
    got = node.serve(placement(), *[runs(100)] * 10)
    assert (got is None) == (method == "of")
