"""The repository's files below one folder, read by many and written by one.

``root.json`` (the newest root: what nodes get), ``metadata/`` (``N.root.json``, ``N.snapshot.json``,
``N.targets.json``, ``N.<team>.json``, ``timestamp.json``), ``staged/change.json`` (what waits for signatures) and
``.lock``.

A publication is written to ``.next/``, takes effect as that becomes ``published/`` by one rename, and is then moved
into ``metadata/``. Readers look into ``published/`` first, so that they have all of it or nothing whenever it ends; the
next writer moves what is left.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent.errors import StoreError
from agent.fleet.home import unreadable
from agent.package import disk
from agent.package.directory import read_bounded
from agent.types import METADATA_NAME

# What a node takes at most; a message has room for 1 MiB.
LIMITS = {"root": 64 * 1024, "timestamp": 16 * 1024, "snapshot": 256 * 1024}
MAX_TARGETS_BYTES = 960 * 1024
MAX_STAGED_BYTES = 2 << 20
KEPT_VERSIONS = 10  # of a role, for nodes that have just read the timestamp before
TIMESTAMP = "timestamp.json"
_VERSIONED = re.compile(r"([1-9][0-9]{0,8})\.([a-z0-9][a-z0-9-]{0,62})\.json")


def limit_of(role: str) -> int:
    """The most bytes that a node takes of a role's file."""
    return LIMITS.get(role, MAX_TARGETS_BYTES)


class RepoFiles:
    """What nodes are served."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metadata, self._published = root / "metadata", root / "published"

    def read(self, name: str) -> bytes | None:
        """A metadata file, e.g. ``timestamp.json`` or ``3.snapshot.json``; None when there is none, or for what is no
        name of one. StoreError when it cannot be read."""
        if not METADATA_NAME.fullmatch(name):
            return None
        limit = limit_of(name.split(".")[-2])
        for path in (self._published / name, self.metadata / name):
            try:
                data = read_bounded(path, limit)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable(path, error) from error
            if data is None:
                raise StoreError(
                    f"{path}: larger than {limit} bytes: damaged; restore {self.root} from a backup"
                )
            return data
        return None

    def versions(self, role: str) -> list[int]:
        """The versions of a role that are here, in order; StoreError."""
        found = {int(match[1]) for match in self._versioned() if match[2] == role}
        return sorted(found)

    def _versioned(self) -> Iterator[re.Match[str]]:
        for folder in (self._published, self.metadata):
            try:
                names = os.listdir(folder)  # noqa: PTH208 (names are all that is needed)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable(folder, error) from error
            yield from filter(None, map(_VERSIONED.fullmatch, names))


class RepoStore(RepoFiles):
    """The writer's side: everything that changes files needs ``writing``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.staged = root / "staged" / "change.json"
        self._claim = self.staged.parent / "init"
        self._next = root / ".next"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time; what an interrupted one left is finished or removed first. StoreError."""
        for folder in (self.root, self.metadata, self.staged.parent):
            disk.make_folder(folder)
        lock = self.root / ".lock"
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk.store_error(lock, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._settle()
            yield
        finally:
            os.close(descriptor)

    def commit(self, files: Mapping[str, bytes]) -> None:
        """Publish files at once; StoreError, and then none of them."""
        try:
            shutil.rmtree(self._next, ignore_errors=True)
            self._next.mkdir()
            for name, data in files.items():
                disk.write(self._next / name, data, sync_folder=False)
            disk.sync(self._next)
            self._next.rename(self._published)
            disk.sync(self.root)
        except OSError as error:
            raise disk.store_error(self._next, error) from error
        self._settle()
        self._forget()

    def read_staged(self) -> bytes | None:
        """What waits for signatures, None when nothing does; StoreError."""
        try:
            data = read_bounded(self.staged, MAX_STAGED_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(self.staged, error) from error
        if data is None:
            raise StoreError(f"{self.staged}: larger than {MAX_STAGED_BYTES} bytes: damaged; remove it")
        return data

    def write_staged(self, data: bytes | None) -> None:
        """Keep what waits for signatures, None: nothing; StoreError."""
        if data is None:
            disk.remove(self.staged)
        else:
            disk.write(self.staged, data)

    def claimed(self) -> str:
        """Where an interrupted ``init`` makes offline keys, nothing when none does."""
        try:
            return self._claim.read_text()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise unreadable(self._claim, error) from error

    def claim(self, folder: str | None) -> None:
        """Note where ``init`` makes offline keys, None: it has ended. StoreError."""
        if folder is None:
            disk.remove(self._claim)
        else:
            disk.write(self._claim, folder.encode())

    def _settle(self) -> None:
        """Move what is published to its place."""
        try:
            shutil.rmtree(self._next, ignore_errors=True)
            if self._published.exists():
                for path in self._published.iterdir():
                    path.replace(self.metadata / path.name)
                disk.sync(self.metadata)
                self._published.rmdir()
                disk.sync(self.root)
        except OSError as error:
            raise disk.store_error(self._published, error) from error
        disk.remove_leftovers(self.root)
        self._copy_root()

    def _copy_root(self) -> None:
        """Let root.json be the newest one."""
        roots, path = self.versions("root"), self.root / "root.json"
        newest = self.read(f"{roots[-1]}.root.json") if roots else None
        try:
            now = path.read_bytes() if path.exists() else None
        except OSError as error:
            raise unreadable(path, error) from error
        if newest is not None and now != newest:
            disk.write(path, newest)

    def _forget(self) -> None:
        """Remove old versions of all roles but root, whose every version a node may need."""
        roles: dict[str, list[int]] = {}
        for match in self._versioned():
            roles.setdefault(match[2], []).append(int(match[1]))
        for role, versions in roles.items():
            for version in sorted(versions)[:-KEPT_VERSIONS] if role != "root" else ():
                disk.remove(self.metadata / f"{version}.{role}.json")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace a folder's content; StoreError."""
    unfinished = folder.parent / f".{folder.name}{disk.LEFTOVER}"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name, data in files.items():
            (unfinished / name).write_bytes(data)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    except OSError as error:
        raise disk.store_error(folder, error) from error
