"""The node's disk: files while their blocks arrive, whole files, manifests, and the versions of each model.

``arriving/<sha>``, ``files/<sha>``, ``manifests/<sha>.json``, ``models/<name>.json`` below one root. Content is named
by its SHA-256 and, but for what arrives, there whole or not at all; only ``models/`` ever changes in place, by one
rename.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from agent.errors import OverlaidError, StoreError
from agent.package import disk
from agent.package.arriving import Arriving, Span, digest_of_file, spans_of
from agent.package.manifest import MAX_MANIFEST_BYTES, Block, File, Manifest, parse_manifest
from agent.package.verify import VerifiedPackage, check_block, digest_of
from agent.package.versions import VersionFiles, Versions
from agent.types import check_digest

log = logging.getLogger(__name__)

# The rest of the disk stays for state.db, telemetry and the system.
FREE_MARGIN_BYTES = 16 << 20


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
        self._making_room = threading.Lock()
        self._spans: dict[str, Span] | None = None
        for folder in ("files", "manifests"):
            disk.make_folder(root / folder)
        self._arriving = Arriving(root / "arriving", self._announce)
        self._versions = VersionFiles(root / "models")
        disk.remove_leftovers(root)

    # -- blocks --------------------------------------------------------------------------------------------------

    def missing(self, files: Mapping[str, File]) -> list[Block]:
        """Make room for the ``files`` that are not here, take from others what they have; the blocks to fetch, each
        once, in order. StoreError when the space does not suffice. What was written before a restart is read and
        checked, so this may take seconds, as ``put_block`` and ``assemble`` may: not for the event loop."""
        with self._making_room:  # two at once would count on the same space
            absent = {file.sha256: file for file in files.values() if not self._has_file(file)}
            self.reserve(sum(file.size for file in absent.values() if not self._arriving.has(file)))
            wanted: dict[str, Block] = {}
            for file in absent.values():
                wanted |= {block.sha256: block for block in self._arriving.expect(file, self._span)}
            return list(wanted.values())

    def put_block(self, block: Block, data: bytes) -> None:
        """Keep a block that arrived, wherever ``missing`` named it; of no use otherwise.

        BlockError when it is not the one, StoreError when the disk refuses.
        """
        check_block(block, data)
        self._arriving.put(block, data)

    def reserve(self, nbytes: int) -> None:
        """StoreError when ``nbytes`` more would exceed the store's cap or the disk; never for none."""
        if not nbytes:
            return
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
        """Check the digest of a file whose blocks are all here and give it its place.

        Damaged blocks are dropped before BlockError is raised, so that fetching ``missing`` again heals; so when a
        block is not here. StoreError when the disk refuses.
        """
        path = self._file_path(file.sha256)
        if self._has_file(file) and not _has_digest(path, file.sha256):
            disk.remove(path)  # it rotted on the disk: the blocks that are not here are fetched again
            with self._lock:
                self._spans = None
        if not self._has_file(file):
            self._arriving.finish(file, path)
            with self._lock:
                if self._spans is not None:
                    self._spans.update(_by_digest(path, file))
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
        """Keep a manifest; StoreError when the disk refuses."""
        path = self._manifest_path(package.digest)
        if _read(path) != package.encoded:
            self._announce(path, len(package.encoded))
            disk.write(path, package.encoded)
        with self._lock:
            self._spans = None

    def manifest(self, digest: str) -> bytes:
        """The manifest's exact bytes; StoreError when it is not here or damaged."""
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
                freed += self._arriving.drop({file.sha256 for file in files})
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
            return parse_manifest(self.manifest(digest))
        except OverlaidError as error:
            log.warning("%s", error)
            return None

    def _span(self, sha: str) -> Span | None:
        """Where a block lies in a file of another version or model."""
        with self._lock:
            if self._spans is None:
                self._spans = dict(self._index())
            return self._spans.get(sha)

    def _index(self) -> Iterator[tuple[str, Span]]:
        for path in (self._root / "manifests").glob("*.json"):
            manifest = self._manifest(path.stem)
            for file in manifest.files.values() if manifest else ():
                if self._has_file(file):
                    yield from _by_digest(self._file_path(file.sha256), file)

    def _has_file(self, file: File) -> bool:
        try:
            return self._file_path(file.sha256).stat().st_size == file.size
        except OSError:
            return False

    def _file_path(self, sha: str) -> Path:
        return self._root / "files" / check_digest(sha)

    def _manifest_path(self, digest: str) -> Path:
        return self._root / "manifests" / f"{check_digest(digest)}.json"


def _has_digest(path: Path, sha: str) -> bool:
    try:
        with path.open("rb") as file:
            return digest_of_file(file.fileno()) == sha
    except OSError as error:  # a bad sector
        log.warning("%s: %s", path, error)
        return False


def _by_digest(path: Path, file: File) -> Iterator[tuple[str, Span]]:
    return zip((block.sha256 for block in file.blocks), spans_of(path, file), strict=True)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
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
