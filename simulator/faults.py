"""What goes wrong on a simulated board, as pure functions of time: from a scenario file or ``overlaid sim inject``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from agent.errors import ConfigError
from simulator.profile import BoardProfile, Part

FOREVER = math.inf
Target = Literal["", "device", "fpga", "rail"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it acts on, and its value with unit, range and default (no unit: it takes none)."""

    text: str
    target: Target = ""
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    default: float | None = None


KINDS = {
    "thermal-step": Kind("the air around the board becomes warmer or colder", "", "C", -60, 100),
    "throttle": Kind("a device runs at this share of its clock", "device", "of its clock", 0.01, 0.99),
    "co-tenant": Kind("another program takes this share of a device", "device", "of the device", 0.01, 0.99),
    "power-cap": Kind("the board lowers its clocks to stay below these watts", "", "W", 0.1, 10_000),
    "brown-out": Kind("the supply fails: nothing runs, overlays are lost"),
    "sensor-missing": Kind("a power sensor cannot be read", "rail"),
    "sensor-nonsense": Kind("a power sensor shows absurd values", "rail"),
    "device-lost": Kind("a device answers no more", "device"),
    "overlay-load-failure": Kind("the FPGA does not take a bitstream", "fpga"),
    "dma-timeout": Kind("transfers to the FPGA do not end; they fail after these seconds", "fpga", "s", 0.01, 60, 1.0),
    "core-hang": Kind("the FPGA's overlay does not end; runs fail after these seconds", "fpga", "s", 0.01, 60, 1.0),
    "disk-slow": Kind("the block store writes this many MB a second", "", "MB/s", 0.001, 10_000),
    "disk-full": Kind("the block store cannot write"),
    "clock-jump": Kind("the wall clock is off by this much", "", "s", -1e9, 1e9),
}  # fmt: skip


class Fault(Part):
    """``at_s`` after the scenario's start or the injection; without ``for_s`` it lasts until the end."""

    kind: str = Field(max_length=64)
    target: str = Field("", max_length=64)
    value: float | None = None
    at_s: float = Field(0.0, ge=0, le=1e9)
    for_s: float | None = Field(None, gt=0, le=1e9)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Fault:
        kind = KINDS.get(self.kind)
        if kind is None:
            raise ValueError(f"there is no fault {self.kind!r}; there are {', '.join(KINDS)}")
        if bool(kind.target) != bool(self.target):
            needs = (
                f"names the {kind.target} it acts on" if kind.target else "acts on the board, not on a target"
            )
            raise ValueError(f"{self.kind} {needs}")
        if not kind.unit and self.value is not None:
            raise ValueError(f"{self.kind} takes no value")
        if kind.unit:
            value = kind.default if self.value is None else self.value
            if value is None or not kind.low <= value <= kind.high:
                raise ValueError(f"{self.kind} needs a value from {kind.low:g} to {kind.high:g} {kind.unit}")
        return self

    @property
    def amount(self) -> float:
        """The value, or its kind's default."""
        return self.value if self.value is not None else KINDS[self.kind].default or 0.0


def check_faults(faults: Iterable[Fault], profile: BoardProfile) -> None:
    """ConfigError when a fault names a device or rail that the board has not."""
    there = {
        "device": [device.id for device in profile.devices],
        "fpga": [device.id for device in profile.devices if device.kind == "fpga"],
        "rail": profile.rail_names,
    }
    for fault in faults:
        kind = KINDS[fault.kind].target
        if kind and fault.target not in there[kind]:
            names = ", ".join(there[kind]) or f"no {kind}"
            raise ConfigError(f"{fault.kind}: {profile.name} has no {kind} {fault.target!r}; it has {names}")


@dataclass(frozen=True, slots=True)
class Happening:
    """A fault in board time: from ``start`` until ``end`` (exclusive)."""

    start: float
    end: float
    fault: Fault

    @classmethod
    def of(cls, fault: Fault, origin: float) -> Happening:
        """``origin``: the board time that ``at_s`` counts from."""
        start = origin + fault.at_s
        return cls(start, FOREVER if fault.for_s is None else start + fault.for_s, fault)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds from one change, at ``since``, to the next, at ``until``. Lists are by device or rail, in order.

    Several faults of a kind add up, within its range: clocks multiply, shares of co-tenants leave what the one before
    left, the lowest cap and disk rate count, ambient steps and clock jumps are summed.
    """

    since: float
    until: float
    ambient_c: float  # added to the profile's
    clock: tuple[float, ...]
    share: tuple[float, ...]  # of the device that a co-tenant takes
    cap_w: float
    brown_out: bool
    lost: tuple[bool, ...]
    back_at: tuple[float, ...]  # when the device came back from its last loss; minus infinity: never lost
    overlay_fails: tuple[bool, ...]
    dma_timeout_s: tuple[float, ...]  # 0: none
    core_hangs_s: tuple[float, ...]  # 0: it does not
    missing: tuple[bool, ...]
    nonsense: tuple[bool, ...]
    disk_mb_s: float
    disk_full: bool
    clock_jump_s: float


class Timeline:
    """The faults of one board over board time."""

    def __init__(self, profile: BoardProfile, happenings: Sequence[Happening] = ()) -> None:
        self._devices = [device.id for device in profile.devices]
        self._rails = profile.rail_names
        self.happenings = tuple(happenings)
        self._changes = sorted({t for h in happenings for t in (h.start, h.end)} | {FOREVER})
        self._now = self._make(-FOREVER)

    def at(self, time: float) -> Conditions:
        """The conditions at ``time``. Fast when times do not go back."""
        now = self._now
        if not now.since <= time < now.until:
            now = self._now = self._make(time)
        return now

    def _make(self, time: float) -> Conditions:
        active = [h.fault for h in self.happenings if h.start <= time < h.end]

        def amounts(kind: str, target: str = "") -> list[float]:
            return [fault.amount for fault in active if fault.kind == kind and fault.target == target]

        def hit(kind: str, names: Sequence[str]) -> tuple[bool, ...]:
            return tuple(bool(amounts(kind, name)) for name in names)

        def total(kind: str) -> float:
            return min(max(sum(amounts(kind)), KINDS[kind].low), KINDS[kind].high)

        devices = self._devices
        brown_out = bool(amounts("brown-out"))
        slowest, fullest = KINDS["throttle"].low, KINDS["co-tenant"].high
        return Conditions(
            since=max((t for t in self._changes if t <= time), default=-FOREVER),
            until=next(t for t in self._changes if t > time),
            ambient_c=total("thermal-step"),
            clock=tuple(max(slowest, math.prod(amounts("throttle", d))) for d in devices),
            share=tuple(
                min(fullest, 1.0 - math.prod(1.0 - s for s in amounts("co-tenant", d))) for d in devices
            ),
            cap_w=min(amounts("power-cap"), default=FOREVER),
            brown_out=brown_out,
            lost=tuple(brown_out or lost for lost in hit("device-lost", devices)),
            back_at=tuple(self._back_at(d, time) for d in devices),
            overlay_fails=hit("overlay-load-failure", devices),
            dma_timeout_s=tuple(max(amounts("dma-timeout", d), default=0.0) for d in devices),
            core_hangs_s=tuple(max(amounts("core-hang", d), default=0.0) for d in devices),
            missing=tuple(brown_out or missing for missing in hit("sensor-missing", self._rails)),
            nonsense=hit("sensor-nonsense", self._rails),
            disk_mb_s=min(amounts("disk-slow"), default=FOREVER),
            disk_full=bool(amounts("disk-full")),
            clock_jump_s=total("clock-jump"),
        )

    def _back_at(self, device: str, time: float) -> float:
        ends = (
            h.end
            for h in self.happenings
            if h.end <= time
            and (h.fault.kind, h.fault.target) in (("device-lost", device), ("brown-out", ""))
        )
        return max(ends, default=-FOREVER)
