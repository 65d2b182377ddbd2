"""What became of the nodes, from what each recorded itself and what passed the broker."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.errors import TelemetryError
from agent.placement.stats import median
from agent.telemetry import queries
from agent.types import State
from simulator.nodes.node import SimNode
from simulator.nodes.observer import Wire
from simulator.nodes.process import Footprint

MAX_FAILURES = 5  # different ones that are shown
LOST = "ENDED"  # the node itself ended


@dataclass(frozen=True, slots=True)
class Outcome:
    """A model's last deployment on a node; ``model`` and ``state`` are empty where there was none.

    ``seconds``: from the desired state's arrival to the end, None while it goes on. ``phases``: how long each took.
    ``chosen`` with ``p50_ms``, ``p99_ms`` of device time and ``mj`` above idle per run, as profiled on the node.
    """

    node: str
    board: str
    received_bytes: int
    model: str = ""
    state: str = ""
    why: str = ""
    seconds: float | None = None
    phases: Mapping[str, float] | None = None
    chosen: str = ""
    p50_ms: float | None = None
    p99_ms: float | None = None
    mj: float | None = None


@dataclass(frozen=True, slots=True)
class BoardSummary:
    """The nodes of one board. Seconds and figures are medians over nodes, but for what their names say."""

    board: str
    nodes: int
    states: Mapping[str, int]
    chosen: Mapping[str, int]
    deploy_p50_s: float | None
    deploy_p95_s: float | None
    deploy_max_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    mj_per_run: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason and how many deployments it ended; ``node`` is one of them."""

    state: str
    why: str
    count: int
    node: str


@dataclass(frozen=True, slots=True)
class Report:
    """A run. ``states``: deployments by state ("" where a node was told nothing)."""

    nodes: int
    interrupted: bool
    states: Mapping[str, int]
    deploy_p50_s: float | None
    deploy_p95_s: float | None
    deploy_max_s: float | None
    phases_p95_s: Mapping[str, float]
    boards: Sequence[BoardSummary]
    received_bytes: int
    wire: Wire
    blocks_sent_each: float | None
    footprint: Footprint
    failures: Sequence[Failure]

    @property
    def all_succeeded(self) -> bool:
        """Every node was started and told to deploy something, and did."""
        return (
            set(self.states) == {State.SUCCEEDED.value}
            and sum(board.nodes for board in self.boards) == self.nodes
        )


def read_outcomes(node: SimNode, model: str | None) -> Iterator[Outcome]:
    """The last deployment of ``model``, or of every model, from a stopped node's telemetry."""
    nothing = Outcome(node.name, node.board, node.received_bytes)
    if node.error:
        yield replace(nothing, state=LOST, why=node.error)
        return
    try:
        rows, placements = _recorded(node.telemetry, model)
    except TelemetryError as error:
        yield replace(nothing, state=LOST, why=str(error))
        return
    if not rows:
        yield nothing
    for name, steps in rows.items():
        yield replace(nothing, model=name, **_deployment(steps), **_choice(placements.get(name)))


def _recorded(path: Path, model: str | None) -> tuple[dict[str, list[queries.Row]], dict[str, queries.Row]]:
    """Steps of each model's last deployment, and its last placement."""
    steps: dict[str, list[queries.Row]] = {}
    with queries.reader(path) as query:
        for row in queries.deployments(query, 0.0, model):
            if row["state"] == State.QUEUED.value:
                steps[row["model"]] = []
            steps.setdefault(row["model"], []).append(row)
        placements = {row["model"]: row for row in queries.placements(query, 0.0, model)}
    return steps, placements


def _deployment(steps: Sequence[queries.Row]) -> dict[str, Any]:
    last = steps[-1]
    phases: Counter[str] = Counter()
    for step, following in itertools.pairwise(steps):
        phases[step["phase"] or step["state"]] += following["time"] - step["time"]
    final = State(last["state"]).final
    return {
        "state": last["state"],
        "why": last["why"] if final else "",
        "seconds": last["time"] - steps[0]["time"] if final else None,
        "phases": dict(phases),
    }


def _choice(placement: queries.Row | None) -> dict[str, Any]:
    if placement is None:
        return {}
    candidate = placement["candidate"]
    chosen = next((v["measurement"] for v in placement["verdicts"] if v["chosen"]), None) or {}
    joules = chosen.get("joules")
    return {
        "chosen": f"{candidate['variant']} on {candidate['device']}",
        "p50_ms": chosen.get("p50_ms"),
        "p99_ms": chosen.get("p99_ms"),
        "mj": None if joules is None else joules * 1e3,
    }


def summarise(
    count: int, outcomes: Sequence[Outcome], wire: Wire, footprint: Footprint, interrupted: bool
) -> Report:
    """All of it. Pure."""
    seconds = sorted(outcome.seconds for outcome in outcomes if outcome.seconds is not None)
    phases = sorted({phase for outcome in outcomes for phase in outcome.phases or ()})
    return Report(
        count,
        interrupted,
        Counter(outcome.state for outcome in outcomes),
        *_spread(seconds),
        {
            phase: quantile(sorted((o.phases or {}).get(phase, 0.0) for o in outcomes), 0.95) or 0.0
            for phase in phases
        },
        [
            _summarise_board(board, [outcome for outcome in outcomes if outcome.board == board])
            for board in sorted({outcome.board for outcome in outcomes})
        ],
        sum({outcome.node: outcome.received_bytes for outcome in outcomes}.values()),
        wire,
        wire.sent_each,
        footprint,
        _failures(outcomes),
    )


def _summarise_board(board: str, outcomes: Sequence[Outcome]) -> BoardSummary:
    return BoardSummary(
        board,
        len({outcome.node for outcome in outcomes}),
        Counter(outcome.state for outcome in outcomes),
        Counter(outcome.chosen for outcome in outcomes if outcome.chosen),
        *_spread(sorted(outcome.seconds for outcome in outcomes if outcome.seconds is not None)),
        _median(outcome.p50_ms for outcome in outcomes),
        _median(outcome.p99_ms for outcome in outcomes),
        _median(outcome.mj for outcome in outcomes),
    )


def _failures(outcomes: Sequence[Outcome]) -> list[Failure]:
    """By error name: texts differ in devices and numbers."""
    ended: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.state and outcome.state != State.SUCCEEDED.value and outcome.why:
            ended.setdefault((outcome.state, outcome.why.partition(":")[0]), []).append(outcome)
    most = sorted(ended.items(), key=lambda item: -len(item[1]))[:MAX_FAILURES]
    return [Failure(state, same[0].why, len(same), same[0].node) for (state, _), same in most]


def _spread(ordered: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    return quantile(ordered, 0.5), quantile(ordered, 0.95), quantile(ordered, 1.0)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of them do not exceed; None without values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
