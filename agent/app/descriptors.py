"""How many descriptors the daemon may have: it keeps one of every connection that its workers serve."""

from __future__ import annotations

import contextlib
import resource

ENOUGH = 65536


def allow_many_descriptors() -> None:
    """Raise the soft limit (often 1024) towards the hard one; nothing happens where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
