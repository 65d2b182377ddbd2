"""Power sensors that Linux shows in sysfs: RAPL energy counters and INA2xx/INA3221 monitors.

Standard library only: the daemon reads them. Sources: Documentation/power/powercap/powercap.rst (RAPL),
Documentation/hwmon/sysfs-interface.rst, ina2xx.rst and ina3221.rst of the Linux kernel. hwmonN numbers change from boot
to boot, so a rail is named by its label, else by the chip's name.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.errors import MeterError
from agent.hal import PowerMeter

CHIP = re.compile(r"ina(219|220|226|230|231|238|260|3221)([_-].*)?")
# Rails that feed the others of the same chip (Jetson): only they are read, or watts would be counted twice.
TOTAL_RAILS = frozenset({"VDD_IN", "POM_5V_IN"})
MAX_WATTS = 1000.0  # of one rail; more is a glitch of the sensor
UDEV_RULE = (  # systemd/60-overlaid.rules
    'ACTION!="remove", SUBSYSTEM=="powercap", TEST=="energy_uj", '
    'RUN+="/bin/chgrp overlaid /sys%p/energy_uj", RUN+="/bin/chmod 0440 /sys%p/energy_uj"'
)


class RaplMeter:
    """One processor package; its counter wraps at ``max_energy_range_uj`` (about 262 kJ or 65 kJ)."""

    tag = "measured"

    def __init__(self, zone: Path) -> None:
        """``zone``: a folder ``intel-rapl:N``. MeterError when a file is missing, unreadable or nonsense."""
        self.rail = _text(zone / "name")
        self._counter = zone / "energy_uj"
        self._range_uj = _number(zone / "max_energy_range_uj")
        self._last_uj = _number(self._counter)
        self._total_uj = 0

    def joules(self) -> float:
        """See ``hal.PowerMeter``."""
        now_uj = _number(self._counter)
        step_uj = now_uj - self._last_uj
        if step_uj < 0:
            step_uj += self._range_uj
            if not 0 <= step_uj <= self._range_uj // 2:
                step_uj = 0  # the counter was reset (suspend), not wrapped
        self._last_uj = now_uj
        self._total_uj += step_uj
        return self._total_uj / 1e6


class WattMeter:
    """A rail whose sensor shows watts, integrated by the trapezoid rule between calls."""

    tag = "measured"

    def __init__(self, rail: str, watts: Callable[[], float], clock: Callable[[], float]) -> None:
        """``watts`` reads the sensor (MeterError when it cannot); ``clock`` gives seconds."""
        self.rail = rail
        self._watts, self._clock = watts, clock
        self._last = self._sample()
        self._total_j = 0.0

    def joules(self) -> float:
        """See ``hal.PowerMeter``."""
        (then_s, then_w), now = self._last, self._sample()
        self._total_j += (now[0] - then_s) * (now[1] + then_w) / 2
        self._last = now
        return self._total_j

    def _sample(self) -> tuple[float, float]:
        watts = self._watts()
        if not -1 <= watts <= MAX_WATTS:
            raise MeterError(f"{self.rail} shows {watts:g} W; check the sensor's shunt value")
        return self._clock(), max(watts, 0.0)  # a rail without load reads a few mW below zero


def open_meters(
    sysfs: Path = Path("/sys"), clock: Callable[[], float] = time.monotonic
) -> tuple[tuple[PowerMeter, ...], tuple[str, ...]]:
    """The readable meters and, for each sensor that is there but not usable, the reason and what to do."""
    meters: list[PowerMeter] = []
    problems: list[str] = []
    for make in (*_rapl(sysfs), *_hwmon(sysfs, clock, problems)):
        try:
            meters.append(make())
        except MeterError as error:
            problems.append(f"no power from {error}")
    if not meters and not problems:
        problems.append(
            "no power sensor: neither RAPL (/sys/class/powercap/intel-rapl:*) nor an INA2xx or INA3221 in "
            "/sys/class/hwmon; energy is missing and placement goes by latency"
        )
    return tuple(meters), tuple(problems)


def _rapl(sysfs: Path) -> Iterator[Callable[[], PowerMeter]]:
    # Packages only: "core" and "uncore" are parts of them, "psys" contains them.
    for zone in sorted((sysfs / "class/powercap").glob("intel-rapl:*")):
        try:
            name = _text(zone / "name")
        except MeterError:
            continue
        if name.startswith("package-"):
            yield functools.partial(RaplMeter, zone)


def _hwmon(
    sysfs: Path, clock: Callable[[], float], problems: list[str]
) -> Iterator[Callable[[], PowerMeter]]:
    for chip in sorted((sysfs / "class/hwmon").glob("hwmon*")):
        try:
            name = _text(chip / "name")
        except MeterError:
            continue
        if not CHIP.fullmatch(name):
            continue
        rails = _rails(chip, name)
        if not rails:
            problems.append(
                f"no power from {chip}: {name} shows neither power1_input nor curr1_input and in1_input"
            )
        total = {rail: watts for rail, watts in rails.items() if rail in TOTAL_RAILS}
        for rail, watts in (total or rails).items():
            yield functools.partial(WattMeter, rail, watts, clock)


def _rails(chip: Path, name: str) -> dict[str, Callable[[], float]]:
    """Rail → reader of watts."""
    if name.startswith("ina3221"):
        return dict(_channels(chip, name))
    rail = _optional(chip / "label") or _rail_of_chip(chip, name)
    if (chip / "power1_input").exists():
        return {rail: lambda: _number(chip / "power1_input") / 1e6}  # µW
    # in0 is the shunt's own voltage, in1 the bus; iio-hwmon numbers them from 1 and has in2 for the bus.
    bus = chip / ("in2_input" if (chip / "in2_input").exists() else "in1_input")
    if bus.exists() and (chip / "curr1_input").exists():
        return {rail: functools.partial(_volts_amps, bus, chip / "curr1_input")}
    return {}


def _rail_of_chip(chip: Path, name: str) -> str:
    """A bare chip name ("ina226") with its bus address, or a name that tells already ("ina226_u76")."""
    bare = CHIP.fullmatch(name)
    address = (chip / "device").resolve().name if (chip / "device").exists() else ""
    return f"{name}@{address}" if address and bare and not bare[2] else name


def _channels(chip: Path, name: str) -> Iterator[tuple[str, Callable[[], float]]]:
    """Channels of an INA3221 that are connected (in4 to in7 are shunt voltages)."""
    for number in (1, 2, 3):
        label = _optional(chip / f"in{number}_label")
        volts, amps = chip / f"in{number}_input", chip / f"curr{number}_input"
        if label != "NC" and volts.exists() and amps.exists():
            yield label or f"{name}-{number}", functools.partial(_volts_amps, volts, amps)


def _volts_amps(volts: Path, amps: Path) -> float:
    return _number(volts) * _number(amps) / 1e6  # mV x mA


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError:
        raise MeterError(f"{path}: {text[:40]!r} is not a number") from None


def _optional(path: Path) -> str:
    try:
        return _text(path)
    except MeterError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except PermissionError:
        rule = f"; udev rule: {UDEV_RULE}" if path.name == "energy_uj" else ""
        raise MeterError(f"{path}: readable by root only{rule}") from None
    except OSError as error:
        raise MeterError(f"{path}: {error.strerror or error}") from None
