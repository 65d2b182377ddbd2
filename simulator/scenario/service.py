"""The models that a scenario's node serves, and the workers that serve them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.placement.adapting.look import Seen
from agent.placement.demand import Demand
from agent.types import Candidate, Measurement, Verdict
from simulator.scenario.workload import Workload
from simulator.speed import RunTime
from simulator.work import Work


class Record(Protocol):
    """What becomes of a model's requests; times in seconds since the start."""

    requests: int

    def done(self, candidate: Candidate, arrived: float, latency_s: float, joules: float) -> None: ...

    def failed(self, arrived: float, why: str) -> None: ...


@dataclass(slots=True)
class Worker:
    """A loaded model. ``pending``: (end, device seconds, late) of the runs that wait or go on; device seconds below 0:
    told elsewhere. The rest is counted of what has ended since the last look."""

    candidate: Candidate
    device: int
    work: Work
    run: RunTime
    pending: deque[tuple[float, float, bool]] = field(default_factory=deque)
    requests: int = 0
    runs: int = 0
    busy_s: float = 0.0
    late: int = 0

    def settle(self, now: float) -> int:
        """Count what has ended; how many wait or go on still. Hot: called for every request."""
        pending = self.pending
        while pending and pending[0][0] <= now:
            _, seconds, late = pending.popleft()
            if seconds >= 0:
                self.runs += 1
                self.busy_s += seconds
                self.late += late
        return len(pending)

    def seen(self, model: str, now: float) -> Seen:
        """What its node saw of it since the last call."""
        self.settle(now)
        seen = Seen(model, self.candidate, self.requests, self.runs, self.busy_s, self.late)
        self.requests = self.runs = self.late = 0
        self.busy_s = 0.0
        return seen


@dataclass(slots=True)
class Service:
    """A model in service. ``measurements``, ``failed``: of its candidates; ``placed``: where it was loaded last;
    ``moving``: where it is being loaded; ``leaving``: workers that finish what they have; ``stale``: its worker has
    seen its device get lost; ``shed``: why it is not served; ``reason``: why it is where it is; ``gone``: withdrawn."""

    workload: Workload
    record: Record
    measurements: tuple[Measurement, ...]
    failed: tuple[Verdict, ...] = ()
    placed: Candidate | None = None
    worker: Worker | None = None
    moving: Candidate | None = None
    leaving: list[Worker] = field(default_factory=list)
    stale: bool = False
    shed: str = ""
    reason: str = ""
    gone: bool = False
    budget_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.budget_s = self.workload.budget.latency_p99_ms / 1e3

    @property
    def name(self) -> str:
        return self.workload.name

    def demand(self) -> Demand:
        """What a policy is told of the model."""
        incumbent = self.worker.candidate if self.worker is not None else None
        return Demand(self.name, self.workload.budget, self.measurements, self.failed, incumbent)

    def measurement(self, candidate: Candidate) -> Measurement | None:
        return next((m for m in self.measurements if m.candidate == candidate), None)

    def seen(self, now: float) -> Sequence[Seen]:
        """Of its worker and of those that leave, since the last call."""
        workers = [*self.leaving, *([self.worker] if self.worker is not None else [])]
        self.leaving = [worker for worker in self.leaving if worker.settle(now)]
        return [worker.seen(self.name, now) for worker in workers]
