"""Who dies with whom, who adopts orphans, what a process is called: prctl(2)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36


def die_with_parent() -> None:
    """SIGKILL for this process as soon as its present parent ends, whatever it does then."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans(adopt: bool) -> None:
    """Descendants that lose their parent become children of this process, not of init. OSError where impossible."""
    _prctl(PR_SET_CHILD_SUBREAPER, int(adopt))


def name_process(name: str) -> None:
    """What ``top`` and ``ps -o comm`` show, 15 bytes at most: the command line of forked workers is their zygote's."""
    with contextlib.suppress(OSError):  # a /proc that is read-only
        Path("/proc/self/comm").write_text(name[:15])


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
