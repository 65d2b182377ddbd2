"""What the nodes cost this process."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Footprint:
    """``start_s``: until all nodes were connected (None: they were not). ``mb_per_node``: resident memory that came
    with the nodes until then, in 10^6 bytes; ``mb``: of the process at the end, model runtimes included."""

    seconds: float = 0.0
    start_s: float | None = None
    cpu_s: float = 0.0
    mb_per_node: float | None = None
    mb: float = 0.0
    threads: int = 0
    files: int = 0


class Usage:
    """Counts from its making on."""

    def __init__(self) -> None:
        self._started, self._cpu_s, self._mb = time.monotonic(), time.process_time(), _resident_mb()
        self._start_s: float | None = None
        self._all_mb = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def all_started(self) -> None:
        """All nodes are there."""
        self._start_s, self._all_mb = self.seconds, _resident_mb()

    def footprint(self, nodes: int) -> Footprint:
        """Until now."""
        return Footprint(
            self.seconds,
            self._start_s,
            time.process_time() - self._cpu_s,
            None if self._start_s is None else (self._all_mb - self._mb) / nodes,
            _resident_mb(),
            threading.active_count(),
            len(os.listdir("/proc/self/fd")),  # noqa: PTH208 (Path.iterdir would open more)
        )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
