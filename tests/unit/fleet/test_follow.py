"""When a deployment is over on a node."""

from __future__ import annotations

import pytest

from agent.fleet.follow import Goal, outcome, timed_out
from agent.fleet.views import NodeView
from agent.link.messages import Reported, ReportedModel, Status
from agent.types import State

GOAL = Goal("cam-7", "digits", "2.0.0", revision=7)


def reported(
    seen: int, state: State | None = None, version: str = "2.0.0", applied: int = 0, why: str = ""
) -> Reported:
    models = [ReportedModel(name="digits", version=version, state=state, why="because")] if state else []
    return Reported(revision_seen=seen, revision_applied=applied, time=1.0, models=models, why=why)


def view(report: Reported | None) -> NodeView:
    return NodeView("cam-7", Status(online=True, boot_id="b1"), report)


@pytest.mark.parametrize(
    "report",
    [
        None,
        reported(6, State.SUCCEEDED),
        reported(7, State.QUEUED),
        reported(7, State.IN_PROGRESS),
        reported(7, State.SUCCEEDED, "1.0.0", applied=6),
        reported(7),
    ],
)
def test_under_way(report: Reported | None) -> None:
    assert outcome(GOAL, view(report), before=reported(6)) is None


@pytest.mark.parametrize("state", [state for state in State if state.final])
def test_a_final_state_of_our_revision_ends_it_with_its_reason(state: State) -> None:
    ended = outcome(GOAL, view(reported(7, state)), before=None)
    assert ended is not None
    assert (ended.state, ended.why) == (state, "because")


def test_a_refusal_counts_only_when_it_is_new() -> None:
    refusal = reported(6, why="BadSignature: no")
    ended = outcome(GOAL, view(refusal), before=reported(6))
    assert ended is not None and ended.state is State.REJECTED and "BadSignature" in ended.why
    assert outcome(GOAL, view(refusal), before=refusal) is None
    assert "BadSignature" in timed_out(GOAL, view(refusal), 5).why


def test_a_node_that_is_ahead_of_the_database_is_told_apart_from_success() -> None:
    ahead = reported(9, State.SUCCEEDED, applied=9)
    ended = outcome(GOAL, view(ahead), before=ahead)
    assert ended is not None and ended.state is State.REJECTED and "operator.db" in ended.why


def test_another_version_after_our_revision_is_superseded() -> None:
    later = outcome(GOAL, view(reported(8, State.IN_PROGRESS, "3.0.0")), before=reported(6))
    assert later is not None and later.state is State.SUPERSEDED and "revision 8" in later.why
    own = outcome(GOAL, view(reported(7, State.SUCCEEDED, "1.0.0", applied=7)), before=reported(6))
    assert own is not None and own.state is State.SUPERSEDED and "its own desired state" in own.why


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (NodeView("cam-7"), "never heard"),
        (NodeView("cam-7", Status(online=False, boot_id="b1")), "offline"),
        (view(None), "has not seen the revision"),
        (view(reported(7, State.IN_PROGRESS)), "it goes on: digits 2.0.0: IN_PROGRESS"),
    ],
)
def test_when_the_time_is_up_the_reason_says_what_is_known(node: NodeView, text: str) -> None:
    ended = timed_out(GOAL, node, 120)
    assert ended.state is State.TIMED_OUT
    assert text in ended.why and "120 s" in ended.why
