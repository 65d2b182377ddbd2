"""How a device can be used as a whole: the first thing that the search decides. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from agent.placement.problem import Problem
from agent.placement.relax import Entry

LENGTHS = (4, 2, 1)  # into which runs on a device are sorted: as many as leave
COMBINATIONS = 400  # of the devices' settings at most, if that can be


class DeviceSetting(NamedTuple):
    """Models are on the device (``used``), under ``overlay``, and the longest run there is ``over`` < it <= ``most``.
    ``held``, ``held_power``: the least that holding takes then."""

    used: bool
    overlay: int | None = None
    over: float = -1.0
    most: float = math.inf
    held: float = 0.0
    held_power: float = 0.0


def settings_of(problem: Problem, entries: Sequence[Sequence[Entry]]) -> list[list[DeviceSetting]]:
    """Every setting of each device under which something can be there, and that of an unused one."""
    there: list[list[Entry]] = [[] for _ in range(problem.devices)]
    for options in entries:
        for entry in options:
            if entry.option.device >= 0:
                there[entry.option.device].append(entry)
    for lengths in LENGTHS:
        settings = [_of_device(found, lengths) for found in there]
        if math.prod(map(len, settings)) <= COMBINATIONS:
            break
    return settings


def allowed(entry: Entry, setting: DeviceSetting) -> bool:
    """Whether the entry may be on a device of its setting; also by what it waits for and makes others wait."""
    option = entry.option
    if not setting.used or (option.overlay is not None and option.overlay[1] != setting.overlay):
        return False
    if entry.makes > setting.most:
        return False
    # What cannot bear the longest run can only be the longest itself.
    return entry.bears > setting.over or entry.makes > setting.over


def _of_device(there: Sequence[Entry], lengths: int) -> list[DeviceSetting]:
    found = [DeviceSetting(False)]
    overlays: list[int | None] = [
        *sorted({entry.option.overlay[1] for entry in there if entry.option.overlay is not None})
    ]
    if there and not overlays:
        overlays = [None]
    for overlay in overlays:
        for over, most in _lengths(there, lengths):
            setting = DeviceSetting(True, overlay, over, most)
            under = [entry for entry in there if allowed(entry, setting)]
            if under:
                held, power = min(e.held for e in under), min(e.held_power for e in under)
                found.append(setting._replace(held=held, held_power=power))
    return found


def _lengths(there: Sequence[Entry], lengths: int) -> list[tuple[float, float]]:
    if all(entry.bears == math.inf for entry in there):
        return [(-1.0, math.inf)]
    runs = sorted({entry.makes for entry in there})
    ends = [runs[round(i * (len(runs) - 1) / lengths)] for i in range(1, lengths)]
    ends = sorted(set(ends) - {runs[-1]})
    return list(zip([-1.0, *ends], [*ends, math.inf], strict=True))
