"""When is a deployment over on a node? Pure, over what the node reports."""

from __future__ import annotations

from dataclasses import dataclass

from agent.fleet.views import NodeView, describe_model, describe_place
from agent.link.messages import Reported
from agent.types import State


@dataclass(frozen=True, slots=True)
class Goal:
    """A model on a node, asked for under this revision."""

    node: str
    model: str
    version: str
    revision: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended on a node. ``place``: variant, device and runtime of ``running``, the version that now serves."""

    node: str
    state: State
    why: str = ""
    running: str | None = None
    place: str | None = None


def outcome(goal: Goal, view: NodeView, before: Reported | None) -> Outcome | None:
    """The end of the deployment, None while it is under way. ``before``: the node's report when it was published."""
    reported = view.reported
    if reported is None:
        return None
    if before is not None and before.revision_seen >= goal.revision:
        return Outcome(goal.node, State.REJECTED, _too_old(goal, before))
    if reported.revision_seen < goal.revision:
        # The text may be an old one that the newest desired state has not taken back yet.
        fresh = reported.why and reported.why != (before.why if before else "")
        return Outcome(goal.node, State.REJECTED, reported.why) if fresh else None
    model = view.model(goal.model)
    if model is None or model.version != goal.version:
        return _other(goal, reported, describe_model(model) if model else f"no {goal.model}")
    if not model.state.final:
        return None
    return Outcome(goal.node, model.state, model.why, model.running_version, describe_place(model))


def _too_old(goal: Goal, before: Reported) -> str:
    return (
        f"the node has seen revision {before.revision_seen} already and refuses {goal.revision}: operator.db is older "
        "than the fleet; start overlaid fleet serve, which takes over what the broker holds, then deploy again"
    )


def _other(goal: Goal, reported: Reported, found: str) -> Outcome | None:
    if reported.revision_seen > goal.revision:
        text = f"revision {reported.revision_seen} came after {goal.revision}; the node has {found}"
        return Outcome(goal.node, State.SUPERSEDED, text)
    if reported.revision_applied >= goal.revision:
        text = f"the node has {found}: its own desired state wins over its groups'"
        return Outcome(goal.node, State.SUPERSEDED, text)
    return None


def timed_out(goal: Goal, view: NodeView, timeout_s: float) -> Outcome:
    """What to say when the time is up."""
    model = view.model(goal.model)
    reported = view.reported
    if view.status is None:
        last = "it was never heard; check its name and that it runs"
    elif not view.online:
        last = "it is offline; the desired state waits for it at the broker"
    elif reported is not None and reported.why:
        last = f"it refuses: {reported.why}"
    elif reported is None or reported.revision_seen < goal.revision:
        last = "it is online and has not seen the revision; check its log"
    else:
        last = f"it goes on: {describe_model(model)}" if model else "it goes on"
    return Outcome(goal.node, State.TIMED_OUT, f"not done within {timeout_s:g} s: {last}")
