from __future__ import annotations

from random import Random

from agent.placement.adapting.tail import Tail


def test_one_in_a_hundred_may_be_late() -> None:
    draw = Random(5)
    tail = Tail()
    for _ in range(1000):
        tail = tail.counted(20, sum(draw.random() < 0.01 for _ in range(20)), 1.0)
        assert not tail.broken


def test_more_is_noticed_when_enough_was_answered() -> None:
    tail = Tail().counted(10, 10, 1.0)
    assert not tail.broken
    for _ in range(10):
        tail = tail.counted(10, 1, 1.0)
    assert tail.broken and str(tail).endswith("% of its answers are late")


def test_what_was_late_is_forgotten() -> None:
    tail = Tail().counted(1000, 100, 1.0)
    assert tail.broken
    for _ in range(120):
        tail = tail.counted(100, 0, 1.0)
    assert not tail.broken


def test_no_more_answers_are_late_than_there_are() -> None:
    assert Tail().counted(10, 1000, 1.0).late == 10
