"""What is counted of a model between two looks."""

from __future__ import annotations

import pytest

from agent.deploy.tally import Tally
from agent.histogram import Histogram
from agent.placement.adapting.adapt import Seen
from agent.placement.demand import Demand
from agent.serving.events import PoolEvent
from agent.types import Budget, Candidate, Placement

CPU, GPU = Candidate("v", "onnxruntime", "cpu"), Candidate("v", "onnxruntime", "gpu")
PLACEMENT = Placement("m", "1.0.0", "0" * 64, Budget(10.0, 5.0), CPU, "", (), 0.0)
DEMANDS = (Demand("m", PLACEMENT.budget, (), incumbent=CPU), Demand("n", PLACEMENT.budget, (), incumbent=GPU))


def times(*seconds: float) -> Histogram:
    found = Histogram()
    for each in seconds:
        found.add(each)
    return found


def event(candidate: Candidate = CPU, version: str = "1.0.0") -> PoolEvent:
    """Three answers of which one is late, two that were turned away, three runs."""
    return PoolEvent(
        "stats",
        "m",
        version,
        candidate,
        failures={"overload": 2, "request": 7},
        device=times(0.001, 0.001, 0.002),
    )


def test_requests_late_ones_and_runs_are_counted_once() -> None:
    tally = Tally()
    assert tally.note(event(), times(0.001, 0.002, 0.030), PLACEMENT)
    [m, n] = tally.take(DEMANDS, undisturbed=True)
    assert (m.model, m.candidate, m.requests, m.runs, m.late) == ("m", CPU, 5, 3, 3)
    assert m.run_s == pytest.approx(0.004)
    assert n == Seen("n", GPU, 0, 0, 0.0)
    assert tally.take(DEMANDS, undisturbed=True)[0] == Seen("m", CPU, 0, 0, 0.0)


@pytest.mark.parametrize("told", [event(GPU), event(version="0.9.0")])
def test_runs_of_a_worker_that_was_replaced_do_not_count(told: PoolEvent) -> None:
    tally = Tally()
    assert not tally.note(told, times(0.001), PLACEMENT)
    assert tally.take(DEMANDS, undisturbed=True)[0] == Seen("m", CPU, 3, 0, 0.0, 2)


def test_while_devices_are_disturbed_only_requests_count() -> None:
    tally = Tally()
    tally.note(event(), times(0.001, 0.030), PLACEMENT)
    assert tally.take(DEMANDS, undisturbed=False)[0] == Seen("m", CPU, 4, 0, 0.0, 0)
