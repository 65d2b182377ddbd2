"""Lower bounds of what the models' options cost together: what they share has prices instead of limits. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent.placement.problem import Option, Problem

if TYPE_CHECKING:
    from agent.placement.usage import DeviceSetting

PATIENCE = 3  # steps without a better bound before they get shorter
UNBOUNDED = 1e300


class Entry(NamedTuple):
    """An option in one search: what it costs there, the loss beyond the model's least, its use of each resource as a
    fraction of the capacity, its holding (``held_power`` as such a fraction), and on its own device how long it makes
    others wait and can wait."""

    value: float
    extra: int
    at: int
    option: Option
    uses: tuple[tuple[int, float], ...]
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

    def reduced(self, entry: Entry) -> float:
        """Its value with what it uses."""
        value = entry.value
        for resource, amount in entry.uses:
            value += self.of[resource] * amount
        return value


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
            entries.append(Entry(value, extra, index, option, uses, held, held_power, makes, bears))
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
    problem: Problem,
    entries: Sequence[Sequence[Entry]],
    goal: float,
    steps: int,
    start: Prices | None,
    settings: Sequence[DeviceSetting] | None = None,
) -> tuple[Prices, float]:
    """Prices with a good bound, and the bound; ``steps`` at most, and none when it reaches ``goal``."""
    prices = start or Prices([0.0] * (len(problem.capacity) + 1), problem.power)
    best, best_prices, pace, since = -UNBOUNDED, prices, 1.0, 0
    for _ in range(steps):
        bound, slope = _bound(entries, prices, settings)
        if bound > best + 1e-12:
            best, best_prices, since = bound, prices, 0
        else:
            since += 1
            if since >= PATIENCE:
                pace, since = pace / 2, 0
        slope = [0.0 if g < 0 and price == 0 else g for g, price in zip(slope, prices.of, strict=True)]
        norm = sum(g * g for g in slope)
        if best >= goal or norm < 1e-18:
            break
        step = pace * (goal - bound) / norm
        prices = prices._replace(of=[max(0.0, p + step * g) for p, g in zip(prices.of, slope, strict=True)])
    return best_prices, best


def _bound(
    entries: Sequence[Sequence[Entry]], prices: Prices, settings: Sequence[DeviceSetting] | None
) -> tuple[float, list[float]]:
    """The bound at these prices, and by how much each resource's capacity is exceeded (as a fraction of it)."""
    of = prices.of
    bound, slope = -sum(of), [-1.0] * len(of)
    for options in entries:
        least, pick = UNBOUNDED, options[0]
        for entry in options:
            value = entry.value
            for r, amount in entry.uses:
                value += of[r] * amount
            if value < least:
                least, pick = value, entry
        bound += least
        for r, amount in pick.uses:
            slope[r] += amount
    if settings is not None:
        bound += sum(setting.held + prices.power * setting.held_power for setting in settings)
        if prices.power_at is not None:
            slope[prices.power_at] += sum(setting.held_power for setting in settings)
    return bound, slope


def priced(
    entries: Sequence[Sequence[Entry]], prices: Prices, room: float
) -> list[list[tuple[float, Entry]]]:
    """Entries with their reduced values, best first; without those that are over the model's best by ``room``."""
    found = []
    for options in entries:
        reduced = [(prices.reduced(e), sum(a for _, a in e.uses), e.at, e) for e in options]
        reduced.sort(key=lambda item: item[:3])
        found.append([(value, e) for value, _, _, e in reduced if value - reduced[0][0] < room])
    return found
