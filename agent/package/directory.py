"""A package as a folder (docs/package.md): ``manifest.json``, ``blocks/<sha256>`` and, once it was published,
``metadata/*.json``.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from agent.errors import BlockError, BlockMissing, ManifestError
from agent.package import disk
from agent.package.manifest import MAX_BLOCK_BYTES, MAX_MANIFEST_BYTES
from agent.types import check_digest, check_metadata_name

MANIFEST_NAME = "manifest.json"
BLOCKS_NAME = "blocks"
METADATA = "metadata"


class PackageDir:
    """Reads what ``overlaid fleet pack`` wrote. Nothing is verified here: ``verify`` and ``Store.put_block`` do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self) -> bytes:
        """The manifest's exact bytes; ManifestError when there is none."""
        try:
            data = read_bounded(self.path / MANIFEST_NAME, MAX_MANIFEST_BYTES)
        except OSError as error:
            raise ManifestError(
                f"{self.path} is not a package: {MANIFEST_NAME}: {error.strerror}; make one: overlaid fleet pack"
            ) from error
        if data is None:
            raise ManifestError(
                f"{self.path / MANIFEST_NAME}: larger than {MAX_MANIFEST_BYTES} bytes: refused"
            )
        return data

    def block(self, sha: str) -> bytes:
        """One block; BlockMissing when it is not there, BlockError when it is larger than a block may be."""
        path = self.path / BLOCKS_NAME / check_digest(sha)
        try:
            data = read_bounded(path, MAX_BLOCK_BYTES)
        except OSError as error:
            raise BlockMissing(f"{path}: {error.strerror}; pack the model again") from error
        if data is None:
            raise BlockError(f"{path}: larger than {MAX_BLOCK_BYTES} bytes: refused; pack the model again")
        return data

    def metadata(self, name: str, limit: int) -> bytes | None:
        """A file of the repository's metadata as of when this was published, None when it is not there; of one that is
        larger than ``limit`` bytes one more than that. StoreError when it cannot be read."""
        path = self.path / METADATA / check_metadata_name(name)
        try:
            return _read(path, limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise disk.store_error(path, error) from error


def read_bounded(path: Path, limit: int) -> bytes | None:
    """A regular file of at most ``limit`` bytes, None when it is larger; OSError, also for a pipe or a device."""
    data = _read(path, limit + 1)
    return data if len(data) <= limit else None


def _read(path: Path, most: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(most)
