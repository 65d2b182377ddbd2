"""Board profiles: what a board's devices can do and draw, its rails, its heat. ``simulator/boards/<name>.toml``.

Units are in the names: W, J, s, us, C (degrees Celsius), GMAC/s (10^9 multiply-accumulates), GB/s (10^9 bytes).
Every number of a profile names its source or is marked as an assumption, in a comment on its line.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.errors import ConfigError, RuntimeUnavailable
from agent.paths import read_toml
from agent.types import check_name
from agent.validation import explain_validation, from_table

BOARDS = Path(__file__).parent / "boards"
BASE = "base"  # what is drawn whatever the devices do; a rail may measure it

Name = Annotated[str, AfterValidator(check_name)]
Watts = Annotated[float, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Celsius = Annotated[float, Field(ge=-60, le=200)]
Precision = Literal["fp32", "fp16", "int8"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Overlay(Part):
    """FPGA only: configurations that can be loaded, one at a time, and what loading one costs."""

    names: tuple[Name, ...] = Field(min_length=1)
    slots: Literal[1] = 1
    load_s: Seconds
    load_j: float = Field(ge=0, le=10_000)

    @model_validator(mode="after")
    def _different(self) -> Overlay:
        if len(set(self.names)) != len(self.names):
            raise ValueError("names: a name appears twice")
        return self


class Device(Part):
    """One device. A run takes overhead + max(MACs / peak of its precision, bytes / bandwidth) at full clock.

    ``peak``: GMAC/s that convolutions reach, not what a data sheet adds up. Watts are above the board's base:
    ``idle_w`` always, ``holding_w`` while a model is loaded (a GPU context, a configured overlay), ``active_w`` more
    while it computes at full clock, ``loading_w`` while a model is being loaded (not told: as when it computes; but a
    GPU may wait while a CPU builds its context). ``jitter``: relative standard deviation of a run's time (log-normal).
    An FPGA that runs overlay programs only has neither peak nor bandwidth: the overlay's cycle model tells.
    """

    id: Name
    kind: Literal["cpu", "gpu", "fpga"]
    name: str
    zone: Name
    formats: tuple[Literal["onnx", "tflite", "npu"], ...] = Field(min_length=1)
    memory_mb: int = Field(ge=1)
    idle_w: Watts = 0.0
    holding_w: Watts = 0.0
    active_w: float = Field(gt=0, le=10_000)
    loading_w: float | None = Field(None, gt=0, le=10_000)
    overhead_us: float = Field(ge=0, le=1e6)
    jitter: float = Field(ge=0, le=0.5)
    load_s: Seconds
    bandwidth_gb_s: float | None = Field(None, gt=0, le=100_000)
    peak: dict[Precision, float] = {}
    overlay: Overlay | None = None

    @property
    def load_j(self) -> float:
        """What loading a model costs, an overlay apart."""
        return self.load_s * (self.active_w if self.loading_w is None else self.loading_w)

    @model_validator(mode="after")
    def _consistent(self) -> Device:
        for precision, value in self.peak.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"peak.{precision} must be above 0 GMAC/s, not {value!r}")
        if (self.kind == "fpga") != (self.overlay is not None):
            raise ValueError("an fpga has an overlay table, other devices have none")
        modelled = self.formats != ("npu",)
        if modelled != bool(self.peak) or modelled != (self.bandwidth_gb_s is not None):
            raise ValueError("peak and bandwidth_gb_s are needed, except where only npu programs run")
        return self


class Throttle(Part):
    """At ``at_c`` and above the zone's devices run at ``factor`` of their clock, until ``hysteresis_c`` below."""

    at_c: Celsius
    factor: float = Field(gt=0, lt=1)
    hysteresis_c: float = Field(3.0, gt=0, le=30)


class Zone(Part):
    """A lump of heat: C dT/dt = P - (T - ambient) / R."""

    name: Name
    r_c_per_w: float = Field(gt=0, le=1000)
    c_j_per_c: float = Field(gt=0, le=100_000)
    throttle: tuple[Throttle, ...] = ()


class Base(Part):
    """What the board draws whatever its devices do, and the zone that it heats."""

    watts: Watts
    zone: Name


class Rail(Part):
    """A power sensor. ``measures``: device ids and "base". It shows averages over 1 / ``rate_hz``, in steps of
    ``resolution_w``."""

    name: str = Field(min_length=1, max_length=64)
    measures: tuple[str, ...] = Field(min_length=1)
    resolution_w: float = Field(gt=0, le=100)
    rate_hz: float = Field(gt=0, le=10_000)


class BoardProfile(Part):
    """One board. ``supply_w`` is what its supply gives at most."""

    name: Name
    title: str
    supply_w: float = Field(gt=0, le=100_000)
    ambient_c: Celsius
    base: Base
    zones: tuple[Zone, ...] = Field(min_length=1, max_length=8)
    devices: tuple[Device, ...] = Field(min_length=1, max_length=8)
    rails: tuple[Rail, ...] = Field((), max_length=8)

    @model_validator(mode="after")
    def _consistent(self) -> BoardProfile:
        zones, ids = {zone.name for zone in self.zones}, [device.id for device in self.devices]
        for what, names in (
            ("zones", [z.name for z in self.zones]),
            ("devices", ids),
            ("rails", self.rail_names),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: a name appears twice")
        if BASE in ids:
            raise ValueError(f"a device cannot have the id {BASE!r}: rails mean the rest of the board by it")
        for where, zone in (("base", self.base.zone), *((f"device {d.id}", d.zone) for d in self.devices)):
            if zone not in zones:
                raise ValueError(f"{where}: there is no zone {zone!r}; there are {', '.join(sorted(zones))}")
        for rail in self.rails:
            for part in rail.measures:
                if part != BASE and part not in ids:
                    raise ValueError(f"rail {rail.name}: measures {part!r}; there are base, {', '.join(ids)}")
        self._check_heat()
        most = self.base.watts + sum(d.idle_w + d.holding_w + d.active_w for d in self.devices)
        if most > self.supply_w:
            raise ValueError(
                f"the devices can draw {most:.4g} W in all, the supply gives {self.supply_w:g} W"
            )
        return self

    def _check_heat(self) -> None:
        for zone in self.zones:
            points = [throttle.at_c for throttle in zone.throttle]
            if points != sorted(set(points)) or any(
                low.factor <= high.factor for low, high in zip(zone.throttle, zone.throttle[1:], strict=False)
            ):
                raise ValueError(f"zone {zone.name}: throttle points must rise and their factors fall")
            if points and points[0] - zone.throttle[0].hysteresis_c <= self.ambient_c:
                raise ValueError(
                    f"zone {zone.name}: throttles at {points[0]:g} C, not above ambient {self.ambient_c:g} C"
                )

    @property
    def rail_names(self) -> list[str]:
        return [rail.name for rail in self.rails]

    @property
    def cpu(self) -> Device | None:
        """The first CPU; None on a board without."""
        return next((device for device in self.devices if device.kind == "cpu"), None)

    def device(self, device_id: str) -> Device:
        """The device with this id; RuntimeUnavailable, naming those that exist, otherwise."""
        for device in self.devices:
            if device.id == device_id:
                return device
        there = ", ".join(device.id for device in self.devices)
        raise RuntimeUnavailable(f"there is no device {device_id!r} on this board; it has: {there}")


def board_names() -> list[str]:
    """The boards that come with the simulator."""
    return sorted(path.stem for path in BOARDS.glob("*.toml"))


@functools.cache
def load_profile(name: str) -> BoardProfile:
    """The board called ``name``; RuntimeUnavailable that lists those that exist, ConfigError for a broken profile."""
    if name not in board_names():
        raise RuntimeUnavailable(
            f"there is no simulated board {name!r}; there are {', '.join(board_names())}"
        )
    return read_profile(BOARDS / f"{name}.toml")


def read_profile(path: Path) -> BoardProfile:
    """A profile from a file; ConfigError names the file, the key and what is wrong with it."""
    try:
        return from_table(BoardProfile, read_toml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain_validation(error)}") from error
