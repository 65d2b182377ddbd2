"""When a move pays: rent or buy. Pure.

Staying costs rent, what it draws more than the better placement; moving costs once. Who moves when the rent paid equals
the price of the move pays at most twice what hindsight would have (Karlin et al., Competitive randomized algorithms for
nonuniform problems, 1994). Rent is counted in joules of requests that came, so that bursts do not make it up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.placement.rest import drawn_w
from agent.types import Candidate, Measurement

HYSTERESIS = 0.05  # of what is drawn now: a saving below that is none
DWELL_LOADS = 10.0  # a model stays for so many times what loading takes
KEPT = 8  # alternatives of which rent is remembered
Change = tuple[tuple[str, Candidate], ...]  # models with where they would go, by name


@dataclass(frozen=True, slots=True)
class Regret:
    """Joules that staying has cost against alternatives that were planned lately, newest last."""

    joules: Mapping[Change, float] = field(default_factory=dict)

    def of(self, change: Change) -> float:
        return self.joules.get(change, 0.0)

    def counting(self, change: Change) -> Regret:
        """With ``change`` among what is counted."""
        if change in self.joules:
            return self
        kept = list(self.joules.items())[-(KEPT - 1) :]
        return replace(self, joules=dict([*kept, (change, 0.0)]))

    def paid(
        self,
        now: Mapping[str, Measurement],
        measured: Mapping[tuple[str, Candidate], Measurement],
        rates: Mapping[str, float],
        seconds: float,
    ) -> Regret:
        """After ``seconds`` at these rates with the models where they are ``now``."""
        if not self.joules:
            return self
        here = drawn_w((m, rates.get(model, 0.0)) for model, m in now.items()) * (1 - HYSTERESIS)
        left = {}
        for change, joules in self.joules.items():
            if any(key not in measured for key in change):
                continue
            there = {**now, **{model: measured[model, candidate] for model, candidate in change}}
            saved = here - drawn_w((m, rates.get(model, 0.0)) for model, m in there.items())
            left[change] = max(0.0, joules + saved * seconds)
        return Regret(left)


def price_j(moves: Sequence[Measurement]) -> float:
    """What these loads cost: as measured, else as if the device was busy for as long."""
    return sum(_load_j(m) + m.load_s * (m.holding_w or 0.0) for m in moves)


def _load_j(m: Measurement) -> float:
    if m.load_j is not None:
        return m.load_j
    return m.load_s * (m.joules or 0.0) / max(m.mean_ms / 1e3, 1e-6)


def dwell_s(here: Measurement) -> float:
    """How long a model stays at least where it was loaded."""
    return DWELL_LOADS * here.load_s
