"""What models did since the last look, from what their workers tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.histogram import Histogram
from agent.placement.adapting.adapt import Seen
from agent.placement.demand import Demand
from agent.serving.events import PoolEvent
from agent.types import Candidate, Placement


@dataclass(slots=True)
class Counts:
    """``runs`` and ``run_s`` are of ``candidate`` alone."""

    candidate: Candidate
    requests: int = 0
    late: int = 0
    runs: int = 0
    run_s: float = 0.0


class Tally:
    """Counts by model; not more than one look's."""

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}

    def note(self, event: PoolEvent, answers: Histogram, placement: Placement) -> bool:
        """A worker of the model did this; False when it is not, or no longer, the one that serves as placed."""
        counts = self._counts.get(event.model)
        if counts is None or counts.candidate != placement.candidate:
            counts = self._counts[event.model] = Counts(placement.candidate)
        turned_away = event.failures.get("overload", 0) + event.failures.get("deadline", 0)
        counts.requests += answers.total + event.errors + turned_away
        counts.late += answers.over(placement.budget.latency_p99_ms / 1e3) + turned_away
        if (event.version, event.candidate) != (placement.version, placement.candidate):
            return False
        counts.runs += event.device.total
        counts.run_s += event.device.seconds
        return True

    def take(self, demands: Iterable[Demand], undisturbed: bool) -> tuple[Seen, ...]:
        """Of every model that runs, also of those that did nothing. Only requests when something else disturbed the
        devices: then times say nothing of them."""
        counts, self._counts = self._counts, {}
        seen = []
        for demand in demands:
            candidate = demand.incumbent
            if candidate is None:
                continue
            did = counts.get(demand.model) or Counts(candidate)
            if not undisturbed:
                did = Counts(candidate, did.requests)
            elif did.candidate != candidate:
                did = Counts(candidate, did.requests, did.late)
            seen.append(Seen(demand.model, candidate, did.requests, did.runs, did.run_s, did.late))
        return tuple(seen)

    def clear(self) -> None:
        """Nothing serves."""
        self._counts.clear()
