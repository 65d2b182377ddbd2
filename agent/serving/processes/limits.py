"""What a worker may take, so that one that misbehaves costs nobody else."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

OOM_SCORE_ADJ = (
    500  # half of the memory there is on top of its own: the kernel takes a worker before the daemon
)


def confine() -> None:
    """For workers and what they fork from: no core dumps of other people's data, first to go when memory is out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # a /proc that is read-only
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ))


def limit_memory(megabytes: int) -> None:
    """Let this process have so many MiB of data (heap, private mappings, thread stacks: RLIMIT_DATA); 0: no limit."""
    if megabytes:
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def maths_threads(threads: int) -> dict[str, str]:
    """The environment that makes maths libraries start so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
