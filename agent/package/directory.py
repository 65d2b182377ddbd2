"""A package as a folder: ``manifest.json`` (the signed envelope) and ``blocks/<sha256>`` (docs/package.md)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from agent.errors import BlockError, BlockMissing, ManifestError
from agent.package.manifest import MAX_BLOCK_BYTES, MAX_ENVELOPE_BYTES
from agent.types import check_digest

MANIFEST_NAME = "manifest.json"
BLOCKS_NAME = "blocks"


class PackageDir:
    """Reads what ``overlaid fleet pack`` wrote. Nothing is verified here: ``verify`` and ``Store.put_block`` do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def envelope(self) -> bytes:
        """The signed manifest's exact bytes; ManifestError when there is none."""
        try:
            data = read_bounded(self.path / MANIFEST_NAME, MAX_ENVELOPE_BYTES)
        except OSError as error:
            raise ManifestError(
                f"{self.path} is not a package: {MANIFEST_NAME}: {error.strerror}; make one: overlaid fleet pack"
            ) from error
        if data is None:
            raise ManifestError(
                f"{self.path / MANIFEST_NAME}: larger than {MAX_ENVELOPE_BYTES} bytes: refused"
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


def read_bounded(path: Path, limit: int) -> bytes | None:
    """A regular file of at most ``limit`` bytes, None when it is larger; OSError, also for a pipe or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = file.read(limit + 1)
    return data if len(data) <= limit else None
