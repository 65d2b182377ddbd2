"""Processes of this machine, as /proc has them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path


def processes() -> list[tuple[int, str, int]]:
    """(pid, name, session) of every process that is no zombie, oldest first."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            head, _, tail = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        fields = tail.split()
        if fields[0] not in "ZX":
            found.append((int(fields[19]), int(folder.name), head.partition("(")[2], int(fields[3])))
    return [(pid, name, session) for _, pid, name, session in sorted(found)]


def signal_all(pids: Iterable[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Those that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def runs(pid: int, module: str) -> bool:
    """Whether it is ``python -m MODULE``; a process that has just been forked is its parent still."""
    with contextlib.suppress(OSError):
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False
