"""What a daemon, its zygotes and its workers hold: descriptors, threads, memory. Read from /proc, from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.stage import children_of

_PRIVATE = re.compile(r"^Private_Dirty:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of one process; ``private_mb``: memory that it alone has written to (2**20 bytes)."""

    pid: int
    descriptors: int
    threads: int
    private_mb: float


def footprints(daemon: int) -> Mapping[str, Footprint]:
    """Of a daemon ("daemon") and its descendants, by the name that each has given itself ("zygote", a model's name).

    Further processes of a name are numbered; those that end meanwhile are left out, zombies are not.
    """
    found: dict[str, Footprint] = {}
    pids = [daemon]
    for pid in pids:
        try:
            pids.extend(children_of(pid))
            name = "daemon" if pid == daemon else Path(f"/proc/{pid}/comm").read_text().strip()
            one = _footprint(pid)
        except (OSError, LookupError):
            continue
        while name in found:
            name += "+"
        found[name] = one
    return found


def _footprint(pid: int) -> Footprint:
    proc = Path(f"/proc/{pid}")
    if "\nState:\tZ" in (proc / "status").read_text():
        return Footprint(pid, 0, 0, 0.0)
    private = _PRIVATE.search((proc / "smaps_rollup").read_text())
    return Footprint(
        pid,
        len(list((proc / "fd").iterdir())),
        len(list((proc / "task").iterdir())),
        int(private[1]) / 1024 if private else 0.0,
    )
