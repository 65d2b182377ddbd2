from __future__ import annotations

from dataclasses import replace

from agent.app.statusline import MAX_PROBLEM, status_line
from agent.types import ModelStatus, Phase, Snapshot, State
from tests.unit.control.test_snapshot import SNAPSHOT

DIGITS = ModelStatus("digits", "1.0.0", "0" * 64, State.SUCCEEDED, why="least energy", ready=True)
FACES = ModelStatus("faces", "2.0.0", "1" * 64, State.FAILED, why="GoldenMismatch: 3 of 8")
NOW: Snapshot = replace(SNAPSHOT, models=())


def test_a_node_without_models_or_sensors_says_no_more_than_that() -> None:
    assert status_line(NOW) == "no models"


def test_models_watts_and_broker() -> None:
    now = replace(
        NOW, models=(DIGITS,), power_w=5.25, power_cap_w=6.5, broker="b:8883", broker_connected=True
    )
    assert status_line(now) == "1 of 1 models serving; 5.2 W of 6.5 W; broker connected"
    assert status_line(replace(now, power_cap_w=None, broker_connected=False)) == (
        "1 of 1 models serving; 5.2 W; broker not connected"
    )


def test_the_first_problem_is_told_and_how_many_more() -> None:
    assert status_line(replace(NOW, models=(DIGITS, FACES))) == (
        "1 of 2 models serving; PROBLEM: faces 2.0.0 FAILED: GoldenMismatch: 3 of 8"
    )
    both = replace(NOW, models=(DIGITS, FACES), warnings=("the disk is full",))
    assert status_line(both).endswith("GoldenMismatch: 3 of 8 (and 1 more: overlaid status)")
    assert status_line(replace(NOW, warnings=("x" * 1000,))) == "no models; PROBLEM: " + "x" * MAX_PROBLEM


def test_a_deployment_under_way_is_no_problem() -> None:
    under_way = replace(FACES, state=State.IN_PROGRESS, phase=Phase.DOWNLOADING, why="waits for 22:00")
    assert status_line(replace(NOW, models=(under_way,))) == "0 of 1 models serving"
