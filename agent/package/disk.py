"""Files that are whole or absent: written beside their place, synced, renamed. What a kill leaves is ``*.tmp``."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from agent.errors import StoreError

LEFTOVER = ".tmp"
log = logging.getLogger(__name__)


def store_error(path: Path, error: OSError) -> StoreError:
    """The StoreError that says which path failed and what to do about it."""
    text = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{path}: {text}; free space on this disk or lower [store] max_mb")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"{path}: {text}; this user (uid {os.geteuid()}) must be able to write there")
    return StoreError(f"{path}: {text}; check the disk and that the path exists")


def make_folder(path: Path) -> None:
    """Create a folder and its parents; StoreError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(path, error) from error


@contextmanager
def replacing(path: Path, sync_folder: bool = True) -> Iterator[BinaryIO]:
    """A file that takes ``path``'s place, complete and durable, when the block ends without an error.

    Without ``sync_folder`` a power cut may lose the new file, but never leaves a torn one. Raises StoreError.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(LEFTOVER, path.name + ".", path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
        if sync_folder:
            sync(path.parent)
    except OSError as error:
        raise store_error(path, error) from error
    finally:
        if temporary is not None:
            # Of a disk that fails the first error tells; the next start removes what stays.
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes, sync_folder: bool = True) -> None:
    """Replace a file's content at once; StoreError."""
    with replacing(path, sync_folder) as file:
        file.write(data)


def allocate(descriptor: int, size: int) -> None:
    """Make an open file ``size`` bytes long, with space for all of them where the file system can promise it; what it
    holds stays. OSError."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    os.ftruncate(descriptor, size)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> int:
    """Remove a file if it is there; the bytes freed. StoreError."""
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise store_error(path, error) from error
    return size


def remove_leftovers(root: Path) -> None:
    """Remove what interrupted writes left anywhere below ``root``, as far as the disk lets: it may have become
    read-only, and what is whole on it shall be read all the same."""
    for path in root.rglob("*" + LEFTOVER):
        try:
            remove(path)
        except StoreError as error:
            log.warning("%s", error)


def used_bytes(root: Path) -> int:
    """Bytes of all files below ``root``; files that vanish meanwhile do not count. StoreError."""
    total = 0
    try:
        for folder, _, names in os.walk(root):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 (hot: one per block)
                except FileNotFoundError:
                    continue
    except OSError as error:
        raise store_error(root, error) from error
    return total
