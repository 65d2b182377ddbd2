"""When a move pays: rent or buy. Pure.

Staying costs rent, what it draws more than the better placement; moving costs once. Who moves when the rent paid equals
the price of the move pays at most twice what hindsight would have (Karlin et al., Competitive randomized algorithms for
nonuniform problems, 1994). Rent is counted in joules of requests that came, so that bursts do not make it up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.placement.adapting.rest import drawn_w
from agent.placement.planning.ways import MOST, held_w, joules_of
from agent.types import Candidate, Measurement

HYSTERESIS = 0.05  # of what is drawn now: a saving below that is none
DWELL_LOADS = 10.0  # a model stays for so many times what loading takes
SIGMAS = 1.5  # by which rent must differ from what random arrivals could have made it
PROBE_S = 0.1  # of runs before a fresh worker takes over
KEPT = 64  # alternatives of which rent is remembered
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
        if not self.rents or seconds <= 0:
            return self
        left = {}
        for change, rent in self.rents.items():
            if any(key not in measured or key[0] not in now for key in change):
                continue
            moved = {key[0]: measured[key] for key in change}
            joules = rent.joules + saved_w(now, moved, rates) * seconds
            noise = rent.noise + seconds * sum(
                rates.get(model, 0.0) * ((joules_of(now[model]) or 0.0) - (joules_of(m) or 0.0)) ** 2
                for model, m in moved.items()
            )
            left[change] = Rent(joules, noise) if joules > 0 else Rent()
        return Regret(left)


def alternatives(
    measured: Mapping[tuple[str, Candidate], Measurement], now: Mapping[str, Measurement]
) -> list[Change]:
    """Every other place for each model alone; none where they are too many to count."""
    found: list[Change] = [
        (key,)
        for key, m in measured.items()
        if key[0] in now and key[1] != now[key[0]].candidate and joules_of(m) is not None
    ]
    return found if len(found) <= KEPT // 2 else []


def saved_w(
    now: Mapping[str, Measurement], moved: Mapping[str, Measurement], rates: Mapping[str, float]
) -> float:
    """Watts that are saved when these have moved, less what is too little to count."""
    apart = {model: (joules_of(now[model]) or 0.0) - (joules_of(m) or 0.0) for model, m in moved.items()}
    runs_w = math.fsum(rates.get(model, 0.0) * joules for model, joules in apart.items())
    here_w = drawn_w((m, rates.get(model, 0.0)) for model, m in now.items())
    return runs_w + _holding_w(now, moved) - HYSTERESIS * here_w


def _holding_w(now: Mapping[str, Measurement], moved: Mapping[str, Measurement]) -> float:
    """How much less is held when these have moved."""
    devices = {m.candidate.device for m in moved.values()} | {now[model].candidate.device for model in moved}
    before, after = dict.fromkeys(devices, 0.0), dict.fromkeys(devices, 0.0)
    for model, m in now.items():
        for held, each in ((before, m), (after, moved.get(model, m))):
            device = each.candidate.device
            if device in held:
                held[device] = max(held[device], held_w(each))
    return math.fsum(before.values()) - math.fsum(after.values())


def load_j(m: Measurement) -> float:
    """What loading it costs: as measured, else as if the device was busy for as long."""
    known = m.load_j is not None and 0 <= m.load_j < MOST
    return m.load_j if m.load_j is not None and known else m.load_s * _busy_w(m)


def probe_j(m: Measurement) -> float:
    """What it costs to find out how fast it runs once it is loaded."""
    return PROBE_S * _busy_w(m)


def _busy_w(m: Measurement) -> float:
    return (joules_of(m) or 0.0) / (m.mean_ms / 1e3) if m.mean_ms > 0 else 0.0


def dwell_s(here: Measurement) -> float:
    """How long a model stays at least where it was loaded."""
    return DWELL_LOADS * here.load_s
