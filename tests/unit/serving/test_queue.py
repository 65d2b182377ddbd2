"""Who waits where, and who is turned away."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.worker.queue import DEADLINE_S, LONGEST_S, MAX_WAITING, Line, Pace, refusal

PRIORITIES = st.integers(0, 3)
TIMES = st.floats(1e-6, 1e4)


def urgency(priority: int) -> float:
    """0 is the default, which every priority that was given goes before."""
    return priority or math.inf


@given(st.lists(PRIORITIES, max_size=40))
def test_the_most_urgent_goes_first_then_who_came_first(priorities: list[int]) -> None:
    line: Line[int] = Line()
    for arrival, priority in enumerate(priorities):
        ahead = sum(urgency(other) <= urgency(priority) for other in priorities[:arrival])
        assert line.ahead(priority) == ahead
        line.add(arrival, priority)
    taken = [(line.first(), line.take()) for _ in range(len(line))]
    assert all(first == item for first, item in taken)
    order = sorted(range(len(priorities)), key=lambda arrival: (urgency(priorities[arrival]), arrival))
    assert [item for _, item in taken] == order


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "remove"]), PRIORITIES), max_size=60))
def test_nobody_is_lost_or_there_twice(steps: list[tuple[str, int]]) -> None:
    line: Line[object] = Line()
    there: list[object] = []
    for step, priority in steps:
        if step == "add":
            there.append(object())
            line.add(there[-1], priority)
        elif there and step == "take":
            there.remove(line.take())
        elif there:
            gone = there.pop(priority % len(there))
            assert line.remove(gone) and not line.remove(gone)
        assert len(line) == len(there) and set(line) == set(there)


def test_places_are_those_that_can_be_served_before_their_deadline() -> None:
    assert Pace(0.1, 0.1).places == MAX_WAITING
    assert Pace(0.001, 0.001).places == 1000  # a second of work
    assert Pace(1.0, 1.0).places == 10 and Pace(1.0, 1.0, 4).places == 40
    assert Pace(4.0, 0.5).places == 20
    assert Pace(60.0, 60.0).places == 1


def test_a_deadline_is_what_was_asked_for_else_ten_seconds_or_a_few_runs() -> None:
    assert Pace(0.1, 0.1).deadline_s(None) == DEADLINE_S
    assert Pace(20.0, 20.0).deadline_s(None) == 80.0
    assert Pace(20.0, 20.0).deadline_s(0.5) == 0.5
    assert Pace(20.0, 20.0).deadline_s(1e9) == LONGEST_S


@pytest.mark.parametrize(
    ("waiting", "ahead", "deadline_s", "status", "retry", "words"),
    [
        (0, 0.0, 1.0, None, "", ""),
        (10, 10.0, 60.0, 503, "11", "10 requests wait, about 11 s of work"),
        (9, 9.0, 60.0, None, "", ""),
        (0, 0.0, 0.999, 504, "1", "would take about 1 s, longer than the request's deadline of 999 ms"),
        (3, 3.5, 4.0, 504, "5", "about 4.5 s"),
        (9, 0.0, 1.0, None, "", ""),  # an urgent one goes before those that wait
    ],
)
def test_who_is_turned_away_hears_why_and_when_to_come_back(
    waiting: int, ahead: float, deadline_s: float, status: int | None, retry: str, words: str
) -> None:
    error = refusal(Pace(1.0, 1.0), waiting, ahead, deadline_s)
    if status is None:
        assert error is None
    else:
        assert error is not None and error.status == status and words in str(error)
        assert error.headers["Retry-After"] == retry


@given(TIMES, TIMES, st.integers(1, 16), st.integers(0, 100), st.integers(0, 100), TIMES)
def test_an_idle_model_takes_whatever_it_can_answer_in_time(
    run_s: float, share_s: float, instances: int, waiting: int, ahead: int, deadline_s: float
) -> None:
    pace = Pace(run_s, share_s, instances)
    assert 1 <= pace.places <= max(MAX_WAITING, instances / share_s)
    assert (refusal(pace, 0, 0, deadline_s) is None) == (run_s <= deadline_s)
    assert refusal(pace, 0, 0, pace.deadline_s(None)) is None
    if refusal(pace, waiting, ahead, deadline_s) is None:
        assert waiting < pace.places and pace.estimate_s(ahead) <= deadline_s
