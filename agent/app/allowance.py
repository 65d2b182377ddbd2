"""What the daemon asks of its own process: descriptors, and to keep little memory."""

from __future__ import annotations

import contextlib
import ctypes
import resource

ENOUGH = 65536
M_ARENA_MAX = -8  # malloc.h


def allow_many_descriptors() -> None:
    """One of every connection that workers serve is kept: raise the soft limit (often 1024) towards the hard one.

    Nothing happens where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def share_one_heap() -> None:
    """All threads allocate from one arena (glibc): each of its own would keep a megabyte that nobody uses."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
