"""How devices are used as a whole, and where to split a problem by that. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from agent.placement.planning.problem import Problem
from agent.placement.planning.relax import Entry

ALL = 1e300

# By model, best first: (reduced value, reduced loss beyond the model's least, which needs of ``bits`` it meets, entry).
Kept = Sequence[Sequence[tuple[float, float, int, Entry]]]


class DeviceSetting(NamedTuple):
    """Models are on the device (``used``), under ``overlay``; a run there lasts longer than ``over``, and one that is
    there needs more than ``heavier`` watts to be held. ``held``, ``held_power``: the least that holding takes then."""

    used: bool
    overlay: int | None = None
    over: float = -1.0
    heavier: float = -1.0
    held: float = 0.0
    held_power: float = 0.0

    def with_held(self, there: Sequence[Entry]) -> DeviceSetting | None:
        """With the least that holding takes where ``there`` can be; None when what must be there cannot."""
        long = [entry for entry in there if entry.makes > self.over]
        heavy = [entry for entry in there if entry.option.hold_w > self.heavier]
        if not long or not heavy:
            return None
        held = max(min([entry.held for entry in of]) for of in (long, heavy))
        power = max(min([entry.held_power for entry in of]) for of in (long, heavy))
        return self._replace(held=held, held_power=power)


class Split(NamedTuple):
    """The longest run on a device (or the watts that hold it) is at most ``at``, or more; either half is ``less`` or
    ``more`` worse."""

    device: int
    by_hold: bool
    at: float
    less: float
    more: float

    def keeps(self, entry: Entry, above: bool) -> bool:
        """Whether the entry is in that half."""
        if entry.option.device != self.device:
            return True
        if self.by_hold:
            return above or entry.option.hold_w <= self.at
        # What cannot bear the longest run can only be the longest itself.
        return entry.makes > self.at or entry.bears > self.at if above else entry.makes <= self.at


def settings_of(problem: Problem, entries: Sequence[Sequence[Entry]]) -> list[list[DeviceSetting]]:
    """Every setting of each device under which something can be there, and that of an unused one."""
    there: list[list[Entry]] = [[] for _ in range(problem.devices)]
    for options in entries:
        for entry in options:
            if entry.option.device >= 0:
                there[entry.option.device].append(entry)
    return [_of_device(found) for found in there]


def _of_device(there: Sequence[Entry]) -> list[DeviceSetting]:
    overlays: list[int | None] = [
        *sorted({entry.option.overlay[1] for entry in there if entry.option.overlay is not None})
    ]
    found = [DeviceSetting(False)]
    for overlay in overlays or [None]:
        setting = DeviceSetting(True, overlay)
        held = setting.with_held([entry for entry in there if allowed(entry, setting)])
        if held is not None:
            found.append(held)
    return found


def allowed(entry: Entry, setting: DeviceSetting) -> bool:
    """Whether the entry may be on a device of its setting."""
    overlay = entry.option.overlay
    return setting.used and (overlay is None or overlay[1] == setting.overlay)


def bits(entry: Entry, combination: Sequence[DeviceSetting]) -> int:
    """What must be on its device that it is: two bits a device, for the longest run and the heaviest holding."""
    device = entry.option.device
    if device < 0:
        return 0
    setting = combination[device]
    return ((entry.makes > setting.over) + 2 * (entry.option.hold_w > setting.heavier)) << 2 * device


def needs(combination: Sequence[DeviceSetting]) -> int:
    """Every bit that something must have."""
    return sum(3 << 2 * device for device, setting in enumerate(combination) if setting.used)


def forced(kept: Kept, combination: Sequence[DeviceSetting]) -> float:
    """What it takes at least that some model is where one must be. Models differ by device, so this adds up."""
    total = 0.0
    for device, setting in enumerate(combination):
        if setting.used:
            total += max(_rise_of_bit(kept, 1 << 2 * device), _rise_of_bit(kept, 2 << 2 * device))
    return total


def _rise_of_bit(kept: Kept, bit: int) -> float:
    least = ALL
    for options in kept:
        for item in options:
            if item[2] & bit:
                least = min(least, item[0] - options[0][0])
                break
        if least <= 0:
            break
    return least


def late_split(kept: Kept, devices: int) -> Split | None:
    """The best split of a device on which the models' best would make each other late."""
    return max(_late_splits(kept, devices), key=_worth, default=None)


def held_split(kept: Kept, combination: Sequence[DeviceSetting], price: float, least: float) -> Split | None:
    """The best split of a device that takes more to be held by the models' best than is reckoned with, if both halves
    are worse by ``least``. ``price``: of power."""
    found = max(_held_splits(kept, combination, price), key=_worth, default=None)
    return None if found is None or _worth(found) <= least else found


def _worth(split: Split) -> float:
    return min(split.less, split.more)


def _late_splits(kept: Kept, devices: int) -> Iterator[Split]:
    for device in range(devices):
        there = [options[0][3] for options in kept if options[0][3].option.device == device]
        longest = max([entry.makes for entry in there], default=0.0)
        for at in {max(entry.bears, entry.makes) for entry in there if entry.bears < longest}:
            if at < longest:
                split = Split(device, False, at, 0.0, 0.0)
                yield split._replace(less=_rise(kept, split, False), more=_rise(kept, split, True))


def _held_splits(kept: Kept, combination: Sequence[DeviceSetting], price: float) -> Iterator[Split]:
    for device, setting in enumerate(combination):
        picks = [options[0][3] for options in kept if options[0][3].option.device == device]
        heaviest = max([entry.option.hold_w for entry in picks], default=0.0)
        there = [item[3] for options in kept for item in options if item[3].option.device == device]
        for at in sorted({entry.option.hold_w for entry in there if entry.option.hold_w < heaviest}):
            above = [entry for entry in there if entry.option.hold_w > at]
            held = min(entry.held for entry in above) - setting.held
            power = min(entry.held_power for entry in above) - setting.held_power
            split = Split(device, True, at, 0.0, max(0.0, held) + price * max(0.0, power))
            if split.more > 0:
                yield split._replace(less=_rise(kept, split, False))


def _rise(kept: Kept, split: Split, above: bool) -> float:
    """By how much the best of each model in that half are worse."""
    device, keeps = split.device, split.keeps
    return sum(
        _first(options, lambda item: keeps(item[3], above))
        for options in kept
        if options[0][3].option.device == device
    )


def _first(
    options: Sequence[tuple[float, float, int, Entry]],
    wanted: Callable[[tuple[float, float, int, Entry]], bool],
) -> float:
    """How much worse than the best the first one is that is wanted."""
    for item in options:
        if wanted(item):
            return item[0] - options[0][0]
    return ALL
