"""Where watts come from on this machine. Standard library only: the daemon reads meters on its event loop.

Reading never waits: RAPL is a register, and the other sensors are read by a thread (``polled``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.devices.power.hwmon import JETSON_RAILS, find_hwmon
from agent.devices.power.pmic import find_pmic
from agent.devices.power.rapl import find_rapl
from agent.errors import MeterError
from agent.hal import PowerMeter

__all__ = ["NO_SENSOR", "open_meters"]

NO_SENSOR = "no power sensor: "


def open_meters(
    sysfs: Path = Path("/sys"),
    clock: Callable[[], float] = time.monotonic,
    dev: Path = Path("/dev"),
    nvml: str = "libnvidia-ml.so.1",
) -> tuple[tuple[PowerMeter, ...], tuple[str, ...]]:
    """The readable meters, each with a rail of its own name, and why other sensors that are there are not usable.

    Takes a moment (a GPU's driver may take seconds).
    """
    meters: list[PowerMeter] = []
    problems: list[str] = []
    hwmon = find_hwmon(sysfs, clock, problems)
    gpus = []
    if (
        sysfs / "module/nvidia"
    ).exists() and not JETSON_RAILS & hwmon.keys():  # a Jetson's GPU is in its rails
        from agent.devices.power.nvml import find_nvml  # ctypes, which others do without

        gpus = find_nvml(nvml, clock, problems)
    for make in (*find_rapl(sysfs, clock), *hwmon.values(), *gpus, *find_pmic(sysfs, dev, clock)):
        try:
            meters.append(make())
        except MeterError as error:
            problems.append(f"no power from {error}")
    if not meters and not problems:
        problems.append(
            f"{NO_SENSOR}neither RAPL (/sys/class/powercap/intel-rapl:*), an INA2xx or INA3221 "
            "(/sys/class/hwmon), an NVIDIA GPU nor a Raspberry Pi 5's PMIC; energy is missing and placement goes by "
            "latency, unless power.idle_w and power.busy_w in agent.toml let it be estimated"
        )
    return tuple(meters), tuple(problems)
