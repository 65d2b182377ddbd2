"""What a worker may take, so that one that misbehaves costs nobody else."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path

from agent.errors import OutOfDeviceMemory, one_line

_WORDS = ("bad_alloc", "failed to allocate memory", "cannot allocate memory", "can't start new thread")
OOM_SCORE_ADJ = 500  # out of 1000: the kernel ends a worker long before the daemon, which has 0


def confine() -> None:
    """For workers and what they fork from: no core dumps of other people's data, first to go when memory is out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # a /proc that is read-only
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ))


def limit_memory(megabytes: int) -> None:
    """Let this process have so many MiB of data (heap, private mappings, thread stacks: RLIMIT_DATA); 0: no limit."""
    if megabytes:
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def release_memory() -> None:
    """Give memory that was freed back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def maths_threads(threads: int) -> dict[str, str]:
    """The environment that makes maths libraries start so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def out_of_memory(error: BaseException) -> bool:
    """True for Python's and numpy's MemoryError, and for what runtimes say instead; not for a GPU's own memory."""
    if isinstance(error, OutOfDeviceMemory):
        return False
    text = str(error).lower()
    return any(isinstance(e, MemoryError) for e in (error, error.__cause__)) or any(w in text for w in _WORDS)


def memory_text(error: BaseException, megabytes: int) -> str:
    """What to tell about ``out_of_memory`` in a worker that may have so many MiB."""
    limit = "on this machine"
    if megabytes:
        limit = f"of the {megabytes} MiB that it may have (serving.worker_memory_mb)"
    return f"the worker has no memory left {limit}; send smaller batches or allow more: {one_line(error)}"
