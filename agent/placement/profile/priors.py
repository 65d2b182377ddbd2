"""What is likely before anything is measured: in which order to measure, and what to say of what was not. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.placement.profile.cache import Key
from agent.placement.profile.values import Profile
from agent.types import Budget, Candidate, Measurement

KINDS = ("fpga", "gpu", "cpu")  # by what a run usually costs, from the least
NARROW = ("int4", "int8", "fp16", "bf16")  # before wider ones


@dataclass(frozen=True, slots=True)
class Prior:
    """A measurement under other conditions; ``source`` names them."""

    measurement: Measurement
    source: str

    def __str__(self) -> str:
        m = self.measurement
        joules = "" if m.joules is None else f", {m.joules:.3g} J"
        return f"p99 {m.p99_ms:.3g} ms{joules} {self.source}"


def prior_of(key: Key, kept: Iterable[tuple[Key, Profile]]) -> Prior | None:
    """From what is kept of the same model, newest last: the same version elsewhen, else another one's same variant on
    the same device."""
    best: tuple[int, Prior] | None = None
    for other, profile in kept:
        if other == key or (other.candidate, other.board) != (key.candidate, key.board):
            continue
        same = other.digest == key.digest
        found = int(same), Prior(profile.measurement, _source(key, other) if same else "of another version")
        if best is None or found[0] >= best[0]:
            best = found
    return best[1] if best else None


def _source(key: Key, other: Key) -> str:
    if other.runtime != key.runtime:
        return f"with {other.runtime}"
    if other.power_mode != key.power_mode:
        return f"in power mode {other.power_mode or 'unknown'}"
    return f"with {other.threads} threads"


def likely_first(
    candidates: Sequence[Candidate],
    priors: Mapping[Candidate, Prior],
    kinds: Mapping[str, str],
    precisions: Mapping[str, str],
    budget: Budget,
) -> list[Candidate]:
    """The candidates, those likely to be chosen first: known to be in time with least energy, then unknown ones by kind
    of device and precision, then those known to be late.

    ``kinds``: of devices by id; ``precisions``: of variants by name.
    """

    def rank(candidate: Candidate) -> tuple[float, ...]:
        kind, precision = kinds.get(candidate.device, ""), precisions.get(candidate.variant, "")
        unknown = (_place(KINDS, kind), _place(NARROW, precision))
        prior = priors.get(candidate)
        if prior is None:
            return (1, 0, 0, *unknown)
        m = prior.measurement
        joules = math.inf if m.joules is None else m.joules
        return (0 if m.p99_ms <= budget.latency_p99_ms else 2, joules, m.p99_ms, *unknown)

    return sorted(candidates, key=lambda candidate: (*rank(candidate), str(candidate)))


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
