"""The node's disk: blocks while they arrive, the files they make, manifests, and the versions of each model.

``blocks/<aa>/<sha>``, ``files/<sha>``, ``manifests/<sha>.json``, ``models/<name>.json`` below one root. Content is
named by its SHA-256, written whole or not at all; only ``models/`` ever changes in place, by one rename.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import BlockError, OverlaidError, StoreError
from agent.package import disk
from agent.package.manifest import MAX_ENVELOPE_BYTES, Block, File, Manifest, parse_manifest
from agent.package.verify import VerifiedPackage, check_block, digest_of
from agent.package.versions import VersionFiles, Versions
from agent.types import check_digest

log = logging.getLogger(__name__)

# The rest of the disk stays for state.db, telemetry and the system.
FREE_MARGIN_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a block lies in an assembled file."""

    file: Path
    offset: int
    size: int


class Store:
    """Usable from several threads. One process at a time: opening removes what interrupted writes left."""

    def __init__(
        self, root: Path, max_bytes: int, before_write: Callable[[int], None] = lambda _: None
    ) -> None:
        """Open or create; StoreError when the folder cannot be made or written. ``before_write``: see ``hal.Board``."""
        self._root = root
        self._max_bytes = max_bytes
        self._before_write = before_write
        self._lock = threading.RLock()
        self._spans: dict[str, _Span] | None = None
        self._damaged: set[str] = set()
        for folder in ("blocks", "files", "manifests"):
            disk.make_folder(root / folder)
        self._versions = VersionFiles(root / "models")
        disk.remove_leftovers(root)

    # -- blocks --------------------------------------------------------------------------------------------------

    def has_block(self, sha: str) -> bool:
        """True when the block is here: as itself, or inside a file of another version or model."""
        return self._block_path(sha).exists() or self._span(sha) is not None

    def put_block(self, block: Block, data: bytes) -> None:
        """Keep a block that arrived; BlockError when it is not the one, StoreError when the disk refuses."""
        check_block(block, data)
        path = self._block_path(block.sha256)
        if path.exists():
            return
        self._announce(path, len(data))
        disk.make_folder(path.parent)
        # No sync of the folder: a power cut may cost a block, which is fetched again.
        disk.write(path, data, sync_folder=False)

    def missing(self, files: Mapping[str, File]) -> list[Block]:
        """The blocks to fetch before ``files`` can be assembled: each once, in order."""
        wanted = {
            block.sha256: block
            for file in files.values()
            if not self._has_file(file)
            for block in file.blocks
        }
        return [block for sha, block in wanted.items() if not self.has_block(sha)]

    def reserve(self, nbytes: int) -> None:
        """StoreError when ``nbytes`` more would exceed the store's cap or the disk."""
        used = self.used_bytes()
        if used + nbytes > self._max_bytes:
            raise StoreError(
                f"{self._root}: {_mb(nbytes)} more do not fit: {_mb(used)} of {_mb(self._max_bytes)} are used; "
                "undeploy a model or raise [store] max_mb"
            )
        try:
            free = os.statvfs(self._root)
        except OSError as error:
            raise disk.store_error(self._root, error) from error
        available = free.f_bavail * free.f_frsize
        if nbytes + FREE_MARGIN_BYTES > available:
            raise StoreError(
                f"{self._root}: {_mb(nbytes)} more do not fit: {_mb(available)} are free on this disk and "
                f"{_mb(FREE_MARGIN_BYTES)} stay free; free space or lower [store] max_mb"
            )

    # -- files ---------------------------------------------------------------------------------------------------

    def assemble(self, file: File) -> Path:
        """Join a file's blocks, check the digest of what was written, and drop the blocks.

        Damaged blocks are dropped before BlockError is raised, so that fetching ``missing`` again heals.
        StoreError when a block is not here or the disk refuses.
        """
        path = self._file_path(file.sha256)
        if self._has_file(file) and not _has_digest(path, file.sha256):
            disk.remove(path)  # it rotted on the disk: the blocks that are not here are fetched again
            with self._lock:
                self._spans = None
        if not self._has_file(file):
            self.reserve(file.size)
            self._announce(path, file.size)
            with disk.replacing(path) as target:
                digest = hashlib.sha256()
                for block in file.blocks:
                    data = self._read_block(block)
                    digest.update(data)
                    target.write(data)
                if digest.hexdigest() != file.sha256:
                    raise self._find_damage(file)
        with self._lock:
            self._damaged -= {block.sha256 for block in file.blocks}
            if self._spans is not None:
                self._spans.update(_spans_of(path, file))
        for block in file.blocks:
            disk.remove(self._block_path(block.sha256))
        return path

    def path(self, file: File) -> Path:
        """Where an assembled file lies; StoreError when it does not."""
        if not self._has_file(file):
            raise StoreError(
                f"{self._file_path(file.sha256)}: lost or cut short; deploy the model again to fetch it"
            )
        return self._file_path(file.sha256)

    # -- manifests and versions ----------------------------------------------------------------------------------

    def put_manifest(self, package: VerifiedPackage) -> None:
        """Keep a signed manifest; StoreError when the disk refuses."""
        path = self._manifest_path(package.digest)
        if _read(path) != package.envelope:
            self._announce(path, len(package.envelope))
            disk.write(path, package.envelope)
        with self._lock:
            self._spans = None

    def manifest(self, digest: str) -> bytes:
        """The signed manifest's exact bytes; StoreError when it is not here or damaged."""
        data = _read(self._manifest_path(digest))
        if data is None or digest_of(data) != digest:
            what = "not on this node" if data is None else "damaged"
            raise StoreError(f"{self._manifest_path(digest)}: {what}; deploying the model again fetches it")
        return data

    def versions(self, model: str) -> Versions:
        """Current and previous version; StoreError when the model's file is damaged."""
        with self._lock:
            return self._versions.read(model)

    def commit(self, model: str, digest: str) -> Versions:
        """Make ``digest`` current, the old current previous. Repeating it changes nothing."""
        with self._lock:
            return self._versions.commit(model, digest)

    def revert(self, model: str) -> Versions:
        """Make the previous version current; StoreError when there is none."""
        with self._lock:
            return self._versions.revert(model)

    def remove(self, model: str) -> None:
        """Forget a model; ``collect`` frees its space."""
        with self._lock:
            self._versions.remove(model)

    def models(self) -> dict[str, Versions]:
        """The installed models. One whose file is damaged is logged and left out: the others still start."""
        with self._lock:
            found = {}
            for model in self._versions.models():
                try:
                    found[model] = self._versions.read(model)
                except (StoreError, ValueError) as error:
                    log.error("%s", error)
            return found

    # -- space ---------------------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """Bytes of all files of the store."""
        return disk.used_bytes(self._root)

    def collect(self, keep: Collection[str]) -> int:
        """Drop what no current, previous or ``keep`` manifest needs; returns the bytes freed.

        While a version file or a needed manifest cannot be read, files and blocks stay: they may be its own.
        """
        with self._lock:
            needed, certain = self._needed(keep)
            manifests = [self._manifest(digest) for digest in needed if self._manifest_path(digest).exists()]
            freed = 0
            if certain:
                freed += _drop(
                    (self._root / "manifests").glob("*.json"), {f"{digest}.json" for digest in needed}
                )
            readable = [manifest for manifest in manifests if manifest is not None]
            if certain and len(readable) == len(manifests):
                files = [file for manifest in readable for file in manifest.files.values()]
                freed += _drop((self._root / "files").iterdir(), {file.sha256 for file in files})
                blocks = {block.sha256 for file in files for block in file.blocks}
                freed += _drop((self._root / "blocks").glob("*/*"), blocks)
            self._spans = None
            return freed

    def _announce(self, path: Path, nbytes: int) -> None:
        try:
            self._before_write(nbytes)
        except OSError as error:
            raise disk.store_error(path, error) from error

    def _needed(self, keep: Collection[str]) -> tuple[set[str], bool]:
        """Digests of manifests to keep, and whether every version file could be read."""
        needed, certain = set(keep), True
        for model in self._versions.models():
            try:
                versions = self._versions.read(model)
            except (StoreError, ValueError):
                certain = False
                continue
            needed |= {digest for digest in (versions.current, versions.previous) if digest is not None}
        return needed, certain

    # -- inside --------------------------------------------------------------------------------------------------

    def _manifest(self, digest: str) -> Manifest | None:
        """A manifest that was verified before it was kept; None when it cannot be read."""
        try:
            return parse_manifest(base64.b64decode(json.loads(self.manifest(digest))["payload"]))
        except (OverlaidError, ValueError, TypeError, KeyError) as error:
            log.warning("%s", error)
            return None

    def _span(self, sha: str) -> _Span | None:
        with self._lock:
            if self._spans is None:
                self._spans = dict(self._index())
            return None if sha in self._damaged else self._spans.get(sha)

    def _index(self) -> Iterator[tuple[str, _Span]]:
        for path in (self._root / "manifests").glob("*.json"):
            manifest = self._manifest(path.stem)
            for file in manifest.files.values() if manifest else ():
                if self._has_file(file):
                    yield from _spans_of(self._file_path(file.sha256), file)

    def _read_block(self, block: Block) -> bytes:
        """A block's bytes, unchecked; StoreError when they are not here."""
        path, offset = self._block_path(block.sha256), 0
        if not path.exists():
            span = self._span(block.sha256)
            if span is None:
                raise BlockError(f"{path}: lost; deploy the model again to fetch it")
            path, offset = span.file, span.offset
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(block.size)
        except OSError as error:
            raise disk.store_error(path, error) from error

    def _find_damage(self, file: File) -> BlockError:
        """Drop the blocks of ``file`` that do not match; the error to raise."""
        bad = 0
        for block in file.blocks:
            try:
                check_block(block, self._read_block(block))
            except BlockError:
                bad += 1
                if disk.remove(self._block_path(block.sha256)) == 0:
                    self._damaged.add(block.sha256)
        if bad:
            return BlockError(
                f"{bad} blocks of file {file.sha256[:12]} were damaged on this disk and are dropped; deploy again"
            )
        return BlockError(
            f"file {file.sha256[:12]} does not match its digest although every block does: pack the model again"
        )

    def _has_file(self, file: File) -> bool:
        try:
            return self._file_path(file.sha256).stat().st_size == file.size
        except OSError:
            return False

    def _block_path(self, sha: str) -> Path:
        return self._root / "blocks" / check_digest(sha)[:2] / sha

    def _file_path(self, sha: str) -> Path:
        return self._root / "files" / check_digest(sha)

    def _manifest_path(self, digest: str) -> Path:
        return self._root / "manifests" / f"{check_digest(digest)}.json"


def _has_digest(path: Path, sha: str) -> bool:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:  # a bad sector
        log.warning("%s: %s", path, error)
        return False
    return digest.hexdigest() == sha


def _spans_of(path: Path, file: File) -> Iterator[tuple[str, _Span]]:
    offset = 0
    for block in file.blocks:
        yield block.sha256, _Span(path, offset, block.size)
        offset += block.size


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ENVELOPE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk.store_error(path, error) from error


def _drop(paths: Iterable[Path], keep: Collection[str]) -> int:
    """Remove the files whose names are not in ``keep``; those being written are left alone."""
    return sum(
        disk.remove(path) for path in list(paths) if path.name not in keep and path.suffix != disk.LEFTOVER
    )


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"
