"""What the pool tells of: its events, and the state of a served model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agent.errors import OverlaidError
from agent.histogram import Histogram
from agent.serving.recent import Failure, Second
from agent.types import Candidate

Kind = Literal["crashed", "restarted", "stats", "gave-up", "unwell", "building", "built"]


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """``stats``: latencies (seconds of request handling), failed requests (``failures``: by kind too) and runs
    (``device``: see ``Report``) since the last one, each second at most.

    crashed: ``text`` names the signal or error. gave-up: five crashes within a minute; tried again every minute.
    unwell: a worker that serves or starts failed for its device's sake, with ``failure``. building, built: what a
    worker builds for this machine before it can run, and that this is over.
    """

    kind: Kind
    model: str
    version: str
    candidate: Candidate
    text: str = ""
    histogram: Histogram | None = None
    errors: int = 0
    failure: OverlaidError | None = None
    failures: Mapping[Failure, int] = field(default_factory=dict)
    device: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A routed model. ``requests``, ``errors``, ``total`` (answered ones) count since this version was routed;
    ``failures`` by kind too. ``waiting``: requests in the worker's queue. ``histogram``: five minutes; ``seconds``: two
    minutes. ``why``: what keeps it from answering; ``held``: nobody shall (``Pool.hold``)."""

    ready: bool
    pid: int | None
    version: str
    digest: str
    candidate: Candidate
    restarts: int
    requests: int
    errors: int
    histogram: Histogram
    memory_mb: float
    total: Histogram = field(default_factory=Histogram)
    seconds: tuple[Second, ...] = ()
    failures: Mapping[Failure, int] = field(default_factory=dict)
    waiting: int = 0
    why: str = ""
    held: bool = False
