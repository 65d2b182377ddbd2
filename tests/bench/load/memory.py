"""How much memory a server takes, whatever else runs on the machine."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.bench.footprint import megabytes
from tests.system.stage import children_of

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+)", re.ASCII)


def tree_mb(pid: int) -> float:
    """A process and all its descendants in MB (2**20 bytes): what they share counts once.

    Of each mapped file, the most that one of them has resident (the proportional set size would be less while strangers
    map the same library); of everything else the proportional set size, which nobody else shares.
    """
    pids = [pid]
    for each in pids:
        pids.extend(children_of(each))
    files: Counter[str] = Counter()
    own = 0.0
    for each in pids:
        proc = Path(f"/proc/{each}")
        files |= _file_kb((proc / "smaps").read_text())
        own += megabytes(proc / "smaps_rollup", "Pss_Anon") + megabytes(proc / "smaps_rollup", "Pss_Shmem")
    return own + files.total() / 1024


def private_mb(pid: int) -> float:
    """What the end of this process alone would free, in MB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    return megabytes(rollup, "Private_Clean") + megabytes(rollup, "Private_Dirty")


def _file_kb(smaps: str) -> Counter[str]:
    """Resident kB of each mapped file, by inode, less what was copied on write."""
    found: Counter[str] = Counter()
    inode = "0"
    for line in smaps.splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            inode = mapping[1]
        elif inode != "0" and line.startswith(("Rss:", "Anonymous:")):
            sign = 1 if line.startswith("Rss:") else -1
            found[inode] += sign * int(line.split()[1])
    return found
