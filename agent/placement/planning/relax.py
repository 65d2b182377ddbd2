"""Lower bounds of what the models' options cost together: what they share has prices instead of limits. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent.placement.planning.problem import Option, Problem

if TYPE_CHECKING:
    from agent.placement.planning.usage import DeviceSetting

PATIENCE = 3  # steps without a better bound before they get shorter
UNBOUNDED = 1e300


Row = tuple[float, tuple[tuple[int, float], ...]]  # what is minimised, and uses


class Entry(NamedTuple):
    """An option in one search: what it costs there, the loss beyond the model's least, its use of each resource as a
    fraction of the capacity (``plain``: without the loss), its holding (``held_power`` as such a fraction), and on its
    own device how long it makes others wait and can wait."""

    value: float
    extra: int
    at: int
    option: Option
    uses: tuple[tuple[int, float], ...]
    plain: tuple[tuple[int, float], ...]
    held: float
    held_power: float
    makes: float
    bears: float


class Prices(NamedTuple):
    """``of``: by resource, the last that of loss; ``power_at``: which is that of power."""

    of: list[float]
    power_at: int | None

    @property
    def power(self) -> float:
        return 0.0 if self.power_at is None else self.of[self.power_at]

    @property
    def total(self) -> float:
        return sum(self.of)


def entries_of(problem: Problem, by_cost: bool, spare: int) -> list[list[Entry]]:
    """The options that fit alone; with ``by_cost`` those that lose at most ``spare`` more than the least."""
    capacity, power = _binding(problem), problem.power
    loss_at = len(capacity)
    found: list[list[Entry]] = []
    for options in problem.models:
        least, entries = min(option.loss for option in options), []
        for index, option in enumerate(options):
            extra = option.loss - least if by_cost else 0
            if extra > spare or any(a > capacity[r] * (1 + 1e-9) + 1e-9 for r, a in option.uses):
                continue
            uses = tuple((r, a / capacity[r]) for r, a in option.uses if 0 < capacity[r] < UNBOUNDED)
            plain = uses
            if extra:
                uses = (*uses, (loss_at, extra / spare))
            held_power = 0.0
            if power is not None and 0 < capacity[power] < UNBOUNDED:
                held_power = option.hold_w / capacity[power]
            value, held = (option.cost, option.hold_cost) if by_cost else (float(option.loss), 0.0)
            makes, bears = 0.0, float("inf")
            for device, run, wait in option.waits:
                if device == option.device:
                    makes, bears = run, wait
            entries.append(Entry(value, extra, index, option, uses, plain, held, held_power, makes, bears))
        found.append(_undominated(entries))
    return found


def _binding(problem: Problem) -> tuple[float, ...]:
    """Capacities, infinite where all models together cannot use them up."""
    most = [0.0] * len(problem.capacity)
    for options in problem.models:
        own: dict[int, float] = {}
        for option in options:
            for resource, amount in option.uses:
                own[resource] = max(own.get(resource, 0.0), amount)
        for resource, amount in own.items():
            most[resource] += amount
    if problem.power is not None:
        held = [0.0] * (problem.devices + 1)
        for options in problem.models:
            for option in options:
                held[option.device] = max(held[option.device], option.hold_w)
        most[problem.power] += sum(held)
    return tuple(
        math.inf if used <= limit else limit for used, limit in zip(most, problem.capacity, strict=True)
    )


def _undominated(entries: Sequence[Entry]) -> list[Entry]:
    """Without those that another one on the same device is at least as good as in everything."""
    kept: list[Entry] = []
    for entry in sorted(entries, key=lambda e: (e.value, e.extra, e.held, sum(a for _, a in e.uses), e.at)):
        if not any(_dominates(other, entry) for other in kept):
            kept.append(entry)
    return kept


def _dominates(one: Entry, other: Entry) -> bool:
    a, b = one.option, other.option
    if a.device != b.device or one.value > other.value or one.extra > other.extra or one.held > other.held:
        return False
    if one.held_power > other.held_power or (a.overlay is not None and a.overlay != b.overlay):
        return False
    if a.waits != b.waits and not _calmer(a, b):
        return False
    if len(one.uses) == len(other.uses):
        for (r, used), (q, more) in zip(one.uses, other.uses, strict=True):
            if r != q:
                break
            if used > more:
                return False
        else:
            return True
    uses = dict(other.uses)
    return all(used <= uses.get(r, 0.0) for r, used in one.uses)


def _calmer(one: Option, other: Option) -> bool:
    """Whether one makes others wait no longer and can wait as long, on every device."""
    waits = {device: (makes, bears) for device, makes, bears in other.waits}
    for device, makes, bears in one.waits:
        most, least = waits.get(device, (0.0, math.inf))
        if makes > most or bears < least:
            return False
    return True


def relaxed(
    rows: Sequence[Sequence[Row]],
    goal: float,
    steps: int,
    start: Prices,
    settings: Sequence[DeviceSetting] = (),
) -> tuple[Prices, float, int]:
    """Prices with a good bound, the bound, and after how many steps; ``steps`` at most, and none when it reaches
    ``goal``."""
    held, power_at = sum(setting.held for setting in settings), start.power_at
    held_power = sum(setting.held_power for setting in settings)
    best, best_of, of, pace, since, done = -UNBOUNDED, start.of, start.of, 1.0, 0, 0
    while done < steps:
        done += 1
        bound, slope = _bound(rows, of)
        bound += held
        if power_at is not None:
            bound += of[power_at] * held_power
            slope[power_at] += held_power
        if bound > best + 1e-12:
            best, best_of, since = bound, of, 0
            if best >= goal:
                break
        else:
            since += 1
            if since >= PATIENCE:
                pace, since = pace / 2, 0
        slope = [0.0 if g < 0 and price == 0 else g for g, price in zip(slope, of, strict=True)]
        norm = sum([g * g for g in slope])
        if norm < 1e-18:
            break
        step = pace * (goal - bound) / norm
        of = [max(0.0, p + step * g) for p, g in zip(of, slope, strict=True)]
    return Prices(best_of, power_at), best, done


def _bound(rows: Sequence[Sequence[Row]], of: Sequence[float]) -> tuple[float, list[float]]:
    """The bound at these prices, and by how much each resource's capacity is exceeded (as a fraction of it)."""
    bound, slope = -sum(of), [-1.0] * len(of)
    for options in rows:
        least, pick = UNBOUNDED, options[0][1]
        for own, uses in options:
            value = own
            for r, amount in uses:
                value += of[r] * amount
            if value < least:
                least, pick = value, uses
        bound += least
        for r, amount in pick:
            slope[r] += amount
    return bound, slope


def reduced(value: float, uses: Sequence[tuple[int, float]], of: Sequence[float]) -> float:
    """A value with what is used at these prices."""
    for r, amount in uses:
        value += of[r] * amount
    return value
