"""INA2xx and INA3221 monitors that Linux shows as hwmon, directly or through iio-hwmon.

Source: Documentation/hwmon/sysfs-interface.rst, ina2xx.rst and ina3221.rst of the Linux kernel (mV, mA, uW), and
drivers/hwmon/iio_hwmon.c for numbers that start at 1. hwmonN changes from boot to boot, so a rail is named by its
label, else by the chip's name and address.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.devices.power.account import Watts
from agent.devices.power.files import Number, optional
from agent.devices.power.polled import PolledMeter, Poller
from agent.hal import PowerMeter

CHIP = re.compile(r"ina(219|220|226|230|231|238|260|3221)([_-].*)?")
# A Jetson's module as a whole: other rails are parts of it, or the carrier board's. Watts are not counted twice.
MODULE_RAILS = frozenset({"VDD_IN", "POM_5V_IN"})
PART_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}  # of a Jetson AGX Orin, which has no rail for all
JETSON_RAILS = MODULE_RAILS | {"VIN_SYS_5V0", "SYS5V"}

Sensor = Callable[[], tuple[float, float | None]]  # watts, and volts where they are known


def find_hwmon(
    sysfs: Path, clock: Callable[[], float], problems: list[str]
) -> dict[str, Callable[[], PowerMeter]]:
    """Rail → what opens its meter; the rails together are what the board draws, as far as it has sensors."""
    rails: dict[str, Sensor] = {}
    for chip in sorted((sysfs / "class/hwmon").glob("hwmon*")):
        name = optional(chip / "name")
        if not CHIP.fullmatch(name):
            continue
        found = dict(_channels(chip, name) if name.startswith("ina3221") else _rail(chip, name))
        if not found and not name.startswith("ina3221"):
            problems.append(
                f"no power from {chip}: {name} shows neither power1_input nor curr1_input and in1_input"
            )
        for rail, sensor in found.items():
            rails[rail if rail not in rails else f"{rail}@{_address(chip) or chip.name}"] = sensor
    poller = Poller()
    return {rail: _maker(poller, rail, rails[rail], clock) for rail in _once(rails)}


def _maker(poller: Poller, rail: str, sensor: Sensor, clock: Callable[[], float]) -> Callable[[], PowerMeter]:
    return lambda: PolledMeter(poller, rail, Watts(), sensor, clock)


def _once(rails: dict[str, Sensor]) -> list[str]:
    whole = [rail for rail in rails if rail in MODULE_RAILS]
    return whole or [rail for rail in rails if PART_OF.get(rail) not in rails]


def _rail(chip: Path, name: str) -> Iterator[tuple[str, Sensor]]:
    """Of a chip with one rail."""
    rail = optional(chip / "label") or _rail_of_chip(chip, name)
    # in0 is the shunt's own voltage, in1 the bus; iio-hwmon numbers them from 1 and has in2 for the bus. An INA260
    # has its shunt inside and shows the bus alone.
    bus = chip / ("in2_input" if (chip / "in2_input").exists() else "in1_input")
    if (chip / "power1_input").exists():
        volts = Number(bus) if bus.exists() else None
        yield rail, functools.partial(_power, Number(chip / "power1_input"), volts)
    elif bus.exists() and (chip / "curr1_input").exists():
        yield rail, functools.partial(_volts_amps, Number(bus), Number(chip / "curr1_input"))


def _channels(chip: Path, name: str) -> Iterator[tuple[str, Sensor]]:
    """Channels of an INA3221 that are connected and on (in4 to in7 are shunt voltages)."""
    for channel in (1, 2, 3):
        label = optional(chip / f"in{channel}_label")
        volts, amps = chip / f"in{channel}_input", chip / f"curr{channel}_input"
        off = label == "NC" or optional(chip / f"in{channel}_enable") == "0"
        if not off and volts.exists() and amps.exists():
            yield label or f"{name}-{channel}", functools.partial(_volts_amps, Number(volts), Number(amps))


def _rail_of_chip(chip: Path, name: str) -> str:
    """A bare chip name ("ina226") with its bus address, or a name that tells already ("ina226_u76")."""
    bare = CHIP.fullmatch(name)
    address = _address(chip)
    return f"{name}@{address}" if address and bare and not bare[2] else name


def _address(chip: Path) -> str:
    """Of the device on its bus, "1-0040"; "" when it is on none."""
    device = chip / "device"
    return device.resolve().name if device.exists() else ""


def _power(power: Number, volts: Number | None) -> tuple[float, float | None]:
    return power.read() / 1e6, None if volts is None else volts.read() / 1e3


def _volts_amps(volts: Number, amps: Number) -> tuple[float, float | None]:
    millivolts = volts.read()
    return millivolts * amps.read() / 1e6, millivolts / 1e3
