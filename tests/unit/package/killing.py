"""A power cut as far as a process sees one: it ends before a change of the disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

KILLED = 77
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


def killed(act: Callable[[], object], after: int) -> bool:
    """Act in a process that ends without a word before its ``after``-th change of the disk; whether it came to that."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    left = after

    def audit(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in CHANGES:
            left -= 1
            if left < 0:
                os._exit(KILLED)

    try:
        sys.addaudithook(audit)
        act()
    finally:
        os._exit(0)
