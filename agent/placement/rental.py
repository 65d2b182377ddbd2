"""When a move pays: rent or buy. Pure.

Staying costs rent, what it draws more than the better placement; moving costs once. Who moves when the rent paid equals
the price of the move pays at most twice what hindsight would have (Karlin et al., Competitive randomized algorithms for
nonuniform problems, 1994). Rent is counted in joules of requests that came, so that bursts do not make it up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.placement.rest import drawn_w
from agent.types import Candidate, Measurement

HYSTERESIS = 0.05  # of what is drawn now: a saving below that is none
DWELL_LOADS = 10.0  # a model stays for so many times what loading takes
SIGMAS = 3.0  # by which rent must differ from what random arrivals could have made it
KEPT = 8  # alternatives of which rent is remembered
Change = tuple[tuple[str, Candidate], ...]  # models with where they would go, by name


class Rent(NamedTuple):
    """Paid since it was nothing last. ``noise``: variance that random arrivals alone would give it, in J^2."""

    joules: float = 0.0
    noise: float = 0.0

    def pays(self, price_j: float) -> bool:
        """Whether it is the price of the move, and no accident of arrivals."""
        return self.joules > 0 and self.joules >= max(price_j, SIGMAS * math.sqrt(self.noise))


@dataclass(frozen=True, slots=True)
class Regret:
    """The rent paid for staying, against alternatives that were planned lately, newest last."""

    rents: Mapping[Change, Rent] = field(default_factory=dict)

    def of(self, change: Change) -> Rent:
        return self.rents.get(change, Rent())

    def counting(self, change: Change) -> Regret:
        """With ``change`` among what is counted."""
        if change in self.rents:
            return self
        kept = list(self.rents.items())[-(KEPT - 1) :]
        return Regret(dict([*kept, (change, Rent())]))

    def without(self, model: str, candidate: Candidate) -> Regret:
        """Anew for what would have brought the model there."""
        return Regret({key: rent for key, rent in self.rents.items() if (model, candidate) not in key})

    def paid(
        self,
        now: Mapping[str, Measurement],
        measured: Mapping[tuple[str, Candidate], Measurement],
        rates: Mapping[str, float],
        seconds: float,
    ) -> Regret:
        """After ``seconds`` at these rates with the models where they are ``now``."""
        if not self.rents:
            return self
        here_w = drawn_w((m, rates.get(model, 0.0)) for model, m in now.items()) * (1 - HYSTERESIS)
        left = {}
        for change, rent in self.rents.items():
            if any(key not in measured or key[0] not in now for key in change):
                continue
            moved = {key[0]: measured[key] for key in change}
            there_w = drawn_w((m, rates.get(model, 0.0)) for model, m in {**now, **moved}.items())
            joules = rent.joules + (here_w - there_w) * seconds
            noise = rent.noise + seconds * sum(
                rates.get(model, 0.0) * ((now[model].joules or 0.0) - (m.joules or 0.0)) ** 2
                for model, m in moved.items()
            )
            left[change] = Rent(joules, noise) if joules > 0 else Rent()
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
