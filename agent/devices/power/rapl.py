"""RAPL energy counters of Intel's and AMD's processors.

Source: Documentation/power/powercap/powercap.rst and Documentation/ABI/testing/sysfs-class-powercap of the Linux
kernel: ``energy_uj`` counts microjoules and wraps at ``max_energy_range_uj`` (about 262 kJ or 65 kJ). Reading takes
microseconds: it is a register of the processor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.devices.power.account import Counter
from agent.devices.power.files import Number, optional
from agent.errors import MeterError
from agent.hal import PowerMeter


class RaplMeter:
    """One processor package, or its memory. See ``hal.PowerMeter``."""

    tag = "measured"

    def __init__(self, zone: Path, rail: str, clock: Callable[[], float]) -> None:
        """``zone``: a folder ``intel-rapl:N``. MeterError when a file is missing, unreadable or nonsense."""
        self.rail = rail
        self._energy, self._clock = Number(zone / "energy_uj"), clock
        self._counter = Counter(1e-6, Number(zone / "max_energy_range_uj").read())
        self.joules()

    def joules(self) -> float:
        """See ``hal.PowerMeter``."""
        value = self._energy.read()
        try:
            self._counter.add(self._clock(), value)
        except MeterError as error:
            raise MeterError(f"{self._energy.path} {error}") from None
        return self._counter.total


def find_rapl(sysfs: Path, clock: Callable[[], float]) -> Iterator[Callable[[], PowerMeter]]:
    """Packages and their memory, which is not in them; "core" and "uncore" are, and "psys" contains all."""
    zones = {zone.name: zone for zone in sorted((sysfs / "class/powercap").glob("intel-rapl:*"))}
    for zone in zones.values():
        name = optional(zone / "name")
        if name.startswith("package-"):
            yield functools.partial(RaplMeter, zone, name, clock)
        elif name == "dram" and (package := zones.get(zone.name.rpartition(":")[0])):
            yield functools.partial(RaplMeter, zone, f"{optional(package / 'name')}-dram", clock)
