"""What this machine lets us have: cores, memory, and the setting of its clocks. Standard library only.

Sources: Documentation/admin-guide/cgroup-v2.rst (cpu.max, memory.max; a limit holds for all groups below it),
Documentation/admin-guide/pm/cpufreq.rst (scaling_governor), and NVIDIA's Jetson Linux Developer Guide, "Power mode
controls" (nvpmodel, whose modes are in /etc/nvpmodel.conf and the one in force in /var/lib/nvpmodel/status).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
MAX_TEXT = 65536


def usable_cores(root: Path = ROOT) -> int:
    """Threads that run beside each other without sharing: cores we may run on, as far as our time on them goes.

    Of 1.5 cores' worth of time, 1 is counted.
    """
    cores = float(len(os.sched_getaffinity(0)))
    for limit in _limits(root, "cpu.max"):
        if (found := re.fullmatch(r"(\d{1,15}) (\d{1,15})", limit)) and int(found[2]):
            cores = min(cores, int(found[1]) / int(found[2]))
    return max(1, math.floor(cores))


def memory_mb(root: Path = ROOT) -> int:
    """Memory in MB (10^6 bytes) that our processes together may have: the machine's, or our group's limit."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = (int(limit) for limit in _limits(root, "memory.max") if re.fullmatch(r"\d{1,20}", limit))
    return min((most, *limits)) // 1_000_000


def power_mode(root: Path = ROOT) -> str:
    """A Jetson's power mode ("15W", "MAXN"), else the governors of the CPU's clocks; "" where there is none."""
    status = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if status:
        return _mode_name(_text(root / "etc/nvpmodel.conf"), int(status[1]))
    policies = (root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor")
    return "+".join(sorted({governor for path in policies if (governor := _text(path))}))


def _mode_name(conf: str, mode: int) -> str:
    for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", conf):
        if int(number) == mode:
            return str(name)
    return f"nvpmodel {mode}"


def _limits(root: Path, name: str) -> Iterator[str]:
    """The attribute of our group (cgroup v2) and of those above it."""
    line = re.search(r"^0::(/.*)$", _text(root / "proc/self/cgroup"), flags=re.MULTILINE)
    top = root / "sys/fs/cgroup"
    group = top / line[1].strip("/") if line else top
    for folder in (group, *group.parents):
        if folder == top.parent:
            return
        if limit := _text(folder / name):
            yield limit


def _text(path: Path) -> str:
    """ "" when it cannot be read."""
    try:
        with path.open(errors="replace") as file:
            return file.read(MAX_TEXT).strip()
    except OSError:
        return ""
