"""What is compared between the candidates of a model, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.placement.planning.limits import ms
from agent.placement.planning.problem import Taken
from agent.placement.planning.ways import Way, held_w, joules_of
from agent.placement.planning.weigh import IDLE_HZ, Model

TIE = 0.05  # what is so near is no reason


class Figures:
    """Watts at the rate that is seen, with the holding that no other pays already; p99 where an energy is missing."""

    def __init__(self, model: Model, others: Taken) -> None:
        self._model, self._others = model, others

    def of(self, way: Way) -> float:
        """Without requests a run counts for next to nothing, so that holding decides first."""
        if self._model.by_time:
            return p99_ms(way)
        return (self._model.rate_hz or IDLE_HZ) * (joules_of(way.m) or 0.0) + self._held(way)

    def text(self, way: Way) -> str:
        """The figure."""
        if self._model.by_time:
            return ms(p99_ms(way))
        return f"{self._model.rate_hz * (joules_of(way.m) or 0.0) + self._held(way):.3g} W"

    def against(self, way: Way) -> str:
        """The figure beside another's: without requests a run is told apart by its energy."""
        return self.text(way) if self._model.by_time or self._model.rate_hz else self._parts(way)

    def decided(self, way: Way, feasible: Sequence[Way]) -> str:
        """What decided for ``way``, one of the feasible."""
        model, name = self._model, self._model.by
        figures = [self.of(other) for other in feasible]
        mine, least = self.of(way), min(figures, default=self.of(way))
        figure = (
            self.text(way)
            if model.by_time
            else f"{self.text(way)} at {model.rate_hz:.4g}/s ({self._parts(way)})"
        )
        kept = way.m.candidate == model.demand.incumbent
        if len(feasible) <= 1:
            return f"the only feasible candidate, {name} {figure}"
        of = f"{len(feasible)} feasible candidates{' (not every one has an energy figure)' if model.by_time else ''}"
        if mine <= least and sum(other <= least * (1 + TIE) for other in figures) == 1:
            return f"least {name}, {figure}, of {of}"
        if mine <= least * (1 + TIE):
            tie = f"{name} {figure}, within {TIE:.0%} of the least of {of}"
            return (
                f"{tie}; {'kept because it runs already' if kept else f'preferred for accuracy, then {name}'}"
            )
        if kept:
            return f"{name} {figure}, of {of}; kept because moving would cost more"
        return f"{name} {figure}, of {of}; the least with what loading and several devices cost"

    def _held(self, way: Way) -> float:
        return max(0.0, held_w(way.m) - self._others.hold_w[way.device])

    def _parts(self, way: Way) -> str:
        a_run = f"{(joules_of(way.m) or 0.0) * 1e3:.3g} mJ a run"
        if not held_w(way.m):
            return a_run
        beside = " with others" if self._others.hold_w[way.device] else ""
        return f"{a_run}, {held_w(way.m):.3g} W held{beside}"


def p99_ms(way: Way) -> float:
    """On the device as it is now."""
    return way.checks[0].value or 0.0
