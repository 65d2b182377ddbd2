"""The operator's packages: what ``fleet serve`` answers from.

``blocks/<aa>/<sha>``, ``manifests/<digest>.json`` (their exact bytes) and ``index/<name>@<version>.json``. Content is
named by its digest and an index entry is created once, so readers need no lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.errors import BlockError, BlockMissing, ManifestError, PackageError, StoreError
from agent.fleet.delta import Delta, delta
from agent.fleet.home import unreadable
from agent.package import disk
from agent.package.directory import PackageDir, read_bounded
from agent.package.manifest import MAX_BLOCK_BYTES, MAX_MANIFEST_BYTES, File, Manifest, parse_manifest
from agent.package.verify import check_block, digest_of
from agent.types import check_digest, check_name, check_version, to_jsonable

MAX_ENTRY_BYTES = 64 * 1024
Progress = Callable[[str, float], None]
Sign = Callable[[str, str, bytes], object]


@dataclass(frozen=True, slots=True)
class Published:
    """One version in the index. ``size``: bytes of all its files; ``published``: Unix seconds."""

    name: str
    version: str
    digest: str
    variants: tuple[str, ...]
    size: int
    published: float


class Repository:
    """Several processes may read while one publishes. ``command``: as ``Home.command``, for the texts of errors."""

    def __init__(self, root: Path, command: Callable[[str], str] = "overlaid fleet {}".format) -> None:
        self._root, self._command = root, command

    # -- writing -------------------------------------------------------------------------------------------------

    def publish(self, folder: Path, sign: Sign, progress: Progress = lambda _text, _share: None) -> Published:
        """Keep a package folder; publishing it again changes nothing. ``sign(name, version, manifest)`` lets nodes
        install it, once all of it is here.

        Raises ManifestError (also: the version exists with other content), BlockMissing, BlockError, StoreError, and
        what ``sign`` does.
        """
        source = PackageDir(folder)
        data = source.manifest()
        manifest, digest = parse_manifest(data), digest_of(data)
        entry = Published(
            manifest.name,
            manifest.version,
            digest,
            tuple(variant.name for variant in manifest.variants),
            sum(file.size for file in manifest.files.values()),
            time.time(),
        )
        with self._writing():
            known = self._entry(self._index_path(entry.name, entry.version))
            if known is not None and known.digest != entry.digest:
                raise ManifestError(
                    f"{entry.name} {entry.version} is published with other content (digest {known.digest[:12]}); "
                    "a version never changes: raise version in model.toml and pack again"
                )
            self._copy_blocks(source, manifest, progress)
            disk.write(self._manifest_path(digest), data)
            sign(entry.name, entry.version, data)
            if known is None:
                disk.write(
                    self._index_path(entry.name, entry.version), json.dumps(to_jsonable(entry)).encode()
                )
        return known or entry

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One publisher at a time; what an interrupted one left is removed first."""
        for name in ("blocks", "manifests", "index"):
            disk.make_folder(self._root / name)
        try:
            descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise disk.store_error(self._root / ".lock", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            disk.remove_leftovers(self._root)
            yield
        finally:
            os.close(descriptor)

    def _copy_blocks(self, source: PackageDir, manifest: Manifest, progress: Progress) -> None:
        done, total = 0, sum(file.size for file in manifest.files.values())
        for name, file in manifest.files.items():
            whole = hashlib.sha256()
            for block in file.blocks:
                data = source.block(block.sha256)
                check_block(block, data)
                whole.update(data)
                self._keep(block.sha256, data)
                done += block.size
                progress(f"publishing {name}", done / total)
            _check_file(name, file, whole.hexdigest())

    def _keep(self, sha: str, data: bytes) -> None:
        path = self._block_path(sha)
        try:
            if path.exists() and read_bounded(path, MAX_BLOCK_BYTES) == data:
                return
        except OSError as error:
            raise disk.store_error(path, error) from error
        disk.make_folder(path.parent)
        disk.write(path, data)

    # -- reading -------------------------------------------------------------------------------------------------

    def find(self, name: str, version: str) -> str:
        """The manifest digest of a version; PackageError names what is published."""
        try:
            entry = self._entry(self._index_path(name, version))
        except ValueError as error:
            raise PackageError(f"{name}@{version}: {error}") from error
        if entry is None:
            known = ", ".join(f"{item.name}@{item.version}" for item in self.versions() if item.name == name)
            raise PackageError(
                f"{name}@{version} is not published; published: {known or f'no version of {name}'} "
                f"({self._command('publish OUT')})"
            )
        return entry.digest

    def versions(self) -> tuple[Published, ...]:
        """Everything that is published: by name, then in order of publication. StoreError when it cannot be read."""
        index = self._root / "index"
        try:
            paths = list(index.iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise unreadable(index, error) from error
        found = [self._entry(path) for path in paths if path.suffix == ".json"]
        known = [entry for entry in found if entry is not None]
        return tuple(sorted(known, key=lambda entry: (entry.name, entry.published, entry.version)))

    def delta(self, entry: Published) -> Delta | None:
        """What is new in a version against the one published before it; None when it is the first.

        Raises BlockMissing, BlockError, ManifestError, StoreError.
        """
        earlier = [
            each
            for each in self.versions()
            if each.name == entry.name
            and (each.published, each.version) < (entry.published, entry.version)
            and each.digest != entry.digest
        ]
        if not earlier:
            return None
        old, new = self.manifest(earlier[-1].digest), self.manifest(entry.digest)
        return delta(parse_manifest(old), parse_manifest(new), len(new))

    def manifest(self, digest: str) -> bytes:
        """The manifest with this digest; BlockMissing when it is not here, BlockError when damaged."""
        data = self._read(self._manifest_path(digest), MAX_MANIFEST_BYTES)
        if digest_of(data) != digest:
            raise BlockError(f"{self._manifest_path(digest)}: damaged; publish the package again")
        return data

    def block(self, sha: str) -> bytes:
        """One block, not checked (the node does); BlockMissing when it is not here."""
        return self._read(self._block_path(sha), MAX_BLOCK_BYTES)

    def _read(self, path: Path, limit: int) -> bytes:
        try:
            data = read_bounded(path, limit)
        except FileNotFoundError:
            raise BlockMissing(f"{path} is not here; publish the package again") from None
        except OSError as error:
            raise unreadable(path, error) from error
        if data is None:
            raise BlockError(f"{path}: larger than {limit} bytes: damaged; publish the package again")
        return data

    def _entry(self, path: Path) -> Published | None:
        """An index entry, None when there is none; StoreError when it is damaged."""
        try:
            data = read_bounded(path, MAX_ENTRY_BYTES)
            value = json.loads(data or b"")
            entry = Published(**(value | {"variants": tuple(value["variants"])}))
            check_digest(entry.digest)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"{path}: damaged; remove it and publish the package again") from error
        return entry

    def _block_path(self, sha: str) -> Path:
        return self._root / "blocks" / check_digest(sha)[:2] / sha

    def _manifest_path(self, digest: str) -> Path:
        return self._root / "manifests" / f"{check_digest(digest)}.json"

    def _index_path(self, name: str, version: str) -> Path:
        return self._root / "index" / f"{check_name(name, 'model')}@{check_version(version)}.json"


def _check_file(name: str, file: File, digest: str) -> None:
    if digest != file.sha256:
        raise BlockError(f"{name} does not match its digest although every block does: pack the model again")
