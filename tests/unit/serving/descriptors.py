"""Descriptors that this process has open."""

from __future__ import annotations

import gc
from pathlib import Path


def open_descriptors() -> set[str]:
    """Their numbers, without those that only wait for the garbage collector: an earlier test may have left some, which
    would be closed in the midst of another one."""
    gc.collect()
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}
