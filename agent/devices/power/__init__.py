"""Where watts come from on this machine. Standard library only: the daemon reads meters on its event loop.

Reading never waits: RAPL is a register, and the other sensors are read by a thread (``polled``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.devices.power.hwmon import find_hwmon
from agent.devices.power.rapl import find_rapl
from agent.errors import MeterError
from agent.hal import PowerMeter

__all__ = ["open_meters"]


def open_meters(
    sysfs: Path = Path("/sys"), clock: Callable[[], float] = time.monotonic
) -> tuple[tuple[PowerMeter, ...], tuple[str, ...]]:
    """The readable meters, each with a rail of its own name, and why other sensors that are there are not usable."""
    meters: list[PowerMeter] = []
    problems: list[str] = []
    for make in (*find_rapl(sysfs, clock), *find_hwmon(sysfs, clock, problems).values()):
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
