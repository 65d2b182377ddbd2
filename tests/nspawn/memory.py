"""Memory limits inside. Where the machine outside has control groups version 1, systemd-nspawn shows the memory groups
to the container read-only, so systemd inside cannot hold MemoryMax. A group for the machine, writable for it, can."""

from __future__ import annotations

import contextlib
from pathlib import Path

HIERARCHY = Path("/sys/fs/cgroup/memory")
# Once systemd runs: the group becomes writable, and systemd looks again what it can control.
OPEN = f"mount -o remount,rw,bind {HIERARCHY} && systemctl daemon-reexec"


class MemoryGroup:
    """A version 1 memory group; nothing at all where there is no such hierarchy."""

    def __init__(self, name: str) -> None:
        self.path = HIERARCHY / name if (HIERARCHY / "cgroup.procs").exists() else None

    def command(self, command: list[str]) -> list[str]:
        """``command`` in the group."""
        if self.path is None:
            return command
        self.path.mkdir(exist_ok=True)
        join = f'echo $$ > {self.path}/cgroup.procs && exec "$@"'
        return ["sh", "-c", join, "sh", *command]

    def remove(self) -> None:
        """Once no process is left in it."""
        if self.path is None or not self.path.is_dir():
            return
        with contextlib.suppress(OSError):  # an empty folder of a hierarchy, which the next boot uses again
            for group in sorted(self.path.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
                group.rmdir()
            self.path.rmdir()
