"""Why an option does not fit beside what the other models take, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent.placement.planning.limits import MAX_UTILISATION, ms
from agent.placement.planning.problem import Option, Taken
from agent.placement.planning.ways import Way, held_w
from agent.placement.planning.weigh import Setting
from agent.types import OverlayRef

NAMED = 3  # models or candidates that a sentence lists


class Obstacle(NamedTuple):
    """``text``: what is in the way; ``until``: when it will not be; ``would``: of a cap, what would be drawn."""

    text: str
    until: str
    would: str = ""


class Chosen(NamedTuple):
    """What all models take: by device (index, name, way) of who uses it; (index, name and watts), most watts first."""

    on: list[list[tuple[int, str, Way]]]
    draws: list[tuple[int, str]]


def chosen(setting: Setting, choice: Sequence[int]) -> Chosen:
    """An option of each model."""
    count = len(setting.devices)
    on: list[list[tuple[int, str, Way]]] = [[] for _ in setting.devices]
    draws = []
    for index, (model, option) in enumerate(zip(setting.models, choice, strict=True)):
        way, name = model.way_of[option], model.demand.model
        if way is None:
            continue
        for device in {way.device, *(resource % count for resource, _ in way.uses if resource < 2 * count)}:
            on[device].append((index, name, way))
        if watts := way.draw_w + held_w(way.m):
            draws.append((-watts, index, f"{name} ({watts:.3g} W)"))
    return Chosen(on, [(index, text) for _, index, text in sorted(draws)])


class Beside:
    """One model's options beside what the others have chosen, ``others``."""

    def __init__(self, setting: Setting, all_: Chosen, index: int, others: Taken) -> None:
        self._setting, self._all, self._index, self.others = setting, all_, index, others

    def obstacle(self, option: Option, way: Way) -> Obstacle | None:
        """None when it fits."""
        if self.others.fits(option):
            return None
        found = self._overlay(option, way) or self._resource(option) or self._waiting(option, way)
        return found or self._cap(way)

    def wait(self, way: Way) -> str:
        """The wait for others' runs that makes it late."""
        waits = [
            (run_s, name, self._setting.devices[device].id)
            for device, _ in way.waits
            for name, other in self._on(device)
            for at, run_s in other.waits
            if at == device
        ]
        run_s, name, where = max(waits, default=(0.0, "others", "it"))
        p99, limit = way.checks[0].value or 0.0, way.checks[0].limit
        return f"p99 {ms(p99 + run_s * 1e3)} > {ms(limit)} with a wait of {ms(run_s * 1e3)} for {name} on {where}"

    def _overlay(self, option: Option, way: Way) -> Obstacle | None:
        if option.overlay is None or self.others.overlay[option.device] in (None, option.overlay[1]):
            return None
        there = [
            (n, w.m.overlay) for n, w in self._on(option.device) if w.m.overlay not in (None, way.m.overlay)
        ]
        held = next(overlay for _, overlay in there if overlay is not None)
        names = named(name for name, _ in there)
        device = self._setting.devices[option.device].id
        text = f"{device} holds {_overlay_text(held, way.m.overlay)} for {names}"
        return Obstacle(text, f"until {names} leave{_s(names)} {device}")

    def _resource(self, option: Option) -> Obstacle | None:
        problem, devices = self._setting.problem, self._setting.devices
        count = len(devices)
        for resource, amount in option.uses:
            if resource == problem.power or amount <= self.others.left[resource]:
                continue
            capacity = problem.capacity[resource]
            total, device = capacity - self.others.left[resource] + amount, devices[resource % count]
            names = named(name for name, _ in self._on(resource % count))
            until = f"while {names} use{_s(names)} {device.id}"
            if resource < count:
                limit = MAX_UTILISATION[device.kind]
                return Obstacle(f"utilisation of {device.id} {total:.1%} > {limit:.0%} with {names}", until)
            return Obstacle(f"memory of {device.id} {total:.4g} MB > {capacity:g} MB with {names}", until)
        return None

    def _waiting(self, option: Option, way: Way) -> Obstacle | None:
        for device, makes, bears in option.waits:
            where = self._setting.devices[device].id
            if self.others.longest[device] > bears:
                names = named(
                    n for n, w in self._on(device) if any(d == device and s > bears for d, s in w.waits)
                )
                return Obstacle(self.wait(way), f"while {names} run{_s(names)} on {where}")
            if makes > self.others.shortest[device]:
                names = named(name for name, other in self._on(device) if other.bears_s < makes)
                return Obstacle(
                    f"its runs of {ms(makes * 1e3)} on {where} would make {names} late",
                    f"while {names} run{_s(names)} there",
                )
        return None

    def _cap(self, way: Way) -> Obstacle:
        problem, cap_w = self._setting.problem, self._setting.node.power_cap_w or 0.0
        left_w = cap_w if problem.power is None else self.others.left[problem.power]
        would_w = cap_w - left_w + way.draw_w + max(0.0, held_w(way.m) - self.others.hold_w[way.device])
        draws = [text for index, text in self._all.draws if index != self._index]
        beside = f" with {named(draws)}" if draws else ""
        return Obstacle(
            f"node {would_w:.4g} W > cap {cap_w:g} W{beside}",
            "until the cap rises",
            f"{would_w:.4g} W{beside}",
        )

    def _on(self, device: int) -> list[tuple[str, Way]]:
        """Other models that use the device."""
        return [(name, way) for index, name, way in self._all.on[device] if index != self._index]


def named(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    listed = list(names)
    more = [f"{len(listed) - NAMED} more"] if len(listed) > NAMED else []
    listed = [*listed[:NAMED], *more]
    return " and ".join(filter(None, [", ".join(listed[:-1]), *listed[-1:]]))


def _s(names: str) -> str:
    """The ending of a verb."""
    return "" if " and " in names else "s"


def _overlay_text(held: OverlayRef, wanted: OverlayRef | None) -> str:
    return str(held) if wanted is not None and held.id == wanted.id else held.id
