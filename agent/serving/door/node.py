"""What the front door shows of the node beyond its models' workers; the composition root brings it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.types import Snapshot


@dataclass(frozen=True, slots=True)
class Rail:
    """A power rail: average watts of the last interval, joules since the daemon began; ``tag``: measured, estimated or
    simulated."""

    name: str
    tag: str
    watts: float
    joules: float


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of one inference above the loaded model's idling, as profiled; ``tag`` as for rails."""

    joules: float
    tag: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """``power``: (Unix s, W) of the last two minutes; ``energy`` by model, where it is known."""

    snapshot: Snapshot
    rails: tuple[Rail, ...] = ()
    power: tuple[tuple[float, float], ...] = ()
    energy: Mapping[str, Energy] = field(default_factory=dict)
