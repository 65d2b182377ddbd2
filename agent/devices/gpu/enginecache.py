"""What providers built for this GPU, kept for the next start: one folder per model, provider, GPU and driver.

A provider writes its own files there. What a process left half written when it was killed, or what made it crash, is
known by a mark that stays only then; such a folder is thrown away. The least recently used ones go when all together
are larger than a limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

LIMIT_MB = 2048
MARK = ".opening"


def key_of(*parts: object) -> str:
    """SHA-256, in hex, of everything that an engine depends on; ``parts`` as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def driver_version(driver: str, root: Path = Path("/")) -> str:
    """Version of a kernel module; of one that comes with the kernel, the kernel's. Empty without a driver."""
    if not driver:
        return ""
    try:
        return (root / "sys/module" / driver / "version").read_text(errors="replace").strip()[:100]
    except OSError:
        return os.uname().release


class Kept:
    """A folder that is this process's until ``EngineCache.hold`` ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def warm(self) -> bool:
        """Whether something was built before."""
        return self.path.is_dir() and any(file.name != MARK for file in self.path.iterdir())

    def clear(self) -> None:
        """Remove everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # then nothing is kept
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / MARK).touch()


class EngineCache:
    """Engines below ``root``, together at most about ``limit_mb`` (each is only measured once it is built)."""

    def __init__(self, root: Path, limit_mb: int = LIMIT_MB) -> None:
        self._root = root
        self._limit = limit_mb << 20

    @contextlib.contextmanager
    def hold(self, key: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[Kept]:
        """The folder of ``key``, made when there is none. Of processes that want the same, one at a time has it: the
        next finds what the first built. Blocks until then, after ``on_wait``. OSError when ``root`` cannot be written.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock(key, on_wait):
            kept = Kept(self._root / key)
            if (kept.path / MARK).exists():
                log.warning("throwing away engine %s: loading it did not end last time", key[:12])
                shutil.rmtree(kept.path, ignore_errors=True)
            kept.path.mkdir(mode=0o700, exist_ok=True)
            (kept.path / MARK).touch()
            try:
                yield kept
            finally:
                with contextlib.suppress(OSError):  # a disk that fails costs the cache, not the session
                    (kept.path / MARK).unlink(missing_ok=True)
                    os.utime(kept.path)  # used just now
                    self._prune(keep=key)

    def _prune(self, keep: str) -> None:
        found = []
        for folder in self._root.iterdir():
            if folder.is_dir():
                with contextlib.suppress(OSError):  # another process may prune as well
                    found.append((folder.stat().st_mtime_ns, _size(folder), folder))
        total = sum(size for _, size, _ in found)
        for _, size, folder in sorted(found):
            if total <= self._limit:
                return
            if folder.name == keep:
                continue
            with contextlib.suppress(BlockingIOError), self._lock(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
                total -= size
                log.info("removed engine %s to keep within %d MB", folder.name[:12], self._limit >> 20)

    @contextlib.contextmanager
    def _lock(self, key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """BlockingIOError when another process has it and ``on_wait`` is None. Lock files are empty and stay."""
        with (self._root / f"{key}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is None:
                    raise
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
