"""Files while their blocks arrive: as large as they will be, each block written once, at its place.

What is there needs no record: after a restart every written place is read and checked by hash, so that neither a kill
nor a power cut can make a file claim what it does not have. Synced every few MiB, off the event loop's thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import BlockError, StoreError
from agent.package import disk
from agent.package.manifest import Block, File
from agent.package.verify import check_block

SYNC_BYTES = 4 << 20  # what a power cut may cost, at most
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """Where a block lies in a file."""

    file: Path
    offset: int
    size: int


@dataclass(slots=True, eq=False)
class _Part:
    path: Path
    file: File
    places: tuple[Span, ...]  # of the file's blocks, in order
    here: set[int] = field(default_factory=set)  # indices of blocks
    unsynced: int = 0
    reading: threading.Lock = field(default_factory=threading.Lock)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)  # of the first ``read`` blocks
    read: int = 0

    def missing(self) -> list[Block]:
        return [block for index, block in enumerate(self.file.blocks) if index not in self.here]

    def read_back(self, descriptor: int) -> None:
        """Go on with the digest of the whole file as far as there is no gap, so that little is left for its end."""
        with self.reading:
            while self.read in self.here:
                place = self.places[self.read]
                self.digest.update(os.pread(descriptor, place.size, place.offset))
                self.read += 1


class Arriving:
    """Files named by their SHA-256 in one folder. Usable from several threads; each call may take as long as the disk.

    ``announce``: called before so many bytes are written to a path; may raise StoreError, as every method does.
    """

    def __init__(self, folder: Path, announce: Callable[[Path, int], None]) -> None:
        self._folder, self._announce = folder, announce
        self._lock = (
            threading.Lock()
        )  # of the dictionaries and of what is here; never held while the disk works
        self._writing, self._finishing = threading.Lock(), threading.Lock()
        self._parts: dict[str, _Part] = {}
        self._wanted: dict[str, set[tuple[_Part, int]]] = {}
        disk.make_folder(folder)

    def has(self, file: File) -> bool:
        """True when there is a place for the whole file; a kill may have left less."""
        try:
            return self._path(file).stat().st_size == file.size
        except OSError:
            return False

    def expect(self, file: File, find: Callable[[str], Span | None]) -> list[Block]:
        """Make the file's place unless it is there, take what ``find`` knows of; the blocks that are missing."""
        with self._lock:
            part = self._parts.get(file.sha256)
        if part is None or part.file != file or not part.path.exists():
            part = self._begin(file, find)
            with self._lock:
                self._forget({file.sha256})
                self._parts[file.sha256] = part
                self._want(part)
        return part.missing()

    def put(self, block: Block, data: bytes) -> None:
        """Write a block, which was checked, wherever it is wanted; when this returns it is there, whoever wrote it."""
        with self._writing:
            self._put_everywhere(block.sha256, data)

    def _put_everywhere(self, sha: str, data: bytes) -> None:
        with self._lock:
            places = list(self._wanted.pop(sha, ()))
        done = 0
        try:
            for part, index in places:
                try:
                    self._put(part, index, data)
                except StoreError:
                    if self._is_expected(part):
                        raise
                done += 1
        finally:
            left = [place for place in places[done:] if self._is_expected(place[0])]
            if left:
                with self._lock:
                    self._wanted.setdefault(sha, set()).update(left)

    def _put(self, part: _Part, index: int, data: bytes) -> None:
        self._announce(part.path, len(data))
        with _opened(part.path, os.O_RDWR) as descriptor:
            _write(descriptor, data, part.places[index].offset)
            part.unsynced += len(data)
            if part.unsynced >= SYNC_BYTES:
                part.unsynced = 0
                os.fdatasync(descriptor)
                part.read_back(descriptor)
        with self._lock:
            part.here.add(index)

    def _is_expected(self, part: _Part) -> bool:
        """False once the file was dropped, maybe in the middle of a write."""
        with self._lock:
            return self._parts.get(part.file.sha256) is part

    def finish(self, file: File, target: Path) -> None:
        """Check the digest of the whole file and give it its name, durable. Nothing when that is done.

        Raises BlockError when a block is missing, or damaged: then it is missing from now on.
        """
        with self._finishing:
            with self._lock:
                part = self._parts.get(file.sha256)
            if part is None or part.file != file or not part.path.exists():
                if target.exists():
                    return
                raise BlockError(
                    f"{target}: none of its blocks is here; deploy the model again to fetch them"
                )
            missing = part.missing()
            if missing:
                raise BlockError(
                    f"{part.path}: block {missing[0].sha256} is lost; deploy the model again to fetch it"
                )
            with _opened(part.path, os.O_RDWR) as descriptor:
                part.read_back(descriptor)
                if part.digest.hexdigest() != file.sha256:
                    raise self._find_damage(part, descriptor)
                os.fsync(descriptor)
                part.path.replace(target)
                disk.sync(target.parent)
            with self._lock:
                self._parts.pop(file.sha256, None)

    def drop(self, keep: Collection[str]) -> int:
        """Remove the files whose digests are not in ``keep``; returns the bytes freed."""
        with self._lock:
            self._forget({sha for sha in self._parts if sha not in keep})
        return sum(disk.remove(path) for path in list(self._folder.iterdir()) if path.name not in keep)

    def _begin(self, file: File, find: Callable[[str], Span | None]) -> _Part:
        path = self._path(file)
        part = _Part(path, file, tuple(spans_of(path, file)))
        if not self.has(file):
            self._announce(path, file.size)
        with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
            try:
                disk.allocate(descriptor, file.size)
            except OSError:
                path.unlink()  # half of a reservation is of no use
                raise
            _find_written(part, descriptor)
            self._copy(part, descriptor, find)
        return part

    def _copy(self, part: _Part, descriptor: int, find: Callable[[str], Span | None]) -> None:
        """What other files on this node have need not be fetched; checked, for they may have rotted."""
        for index, block in enumerate(part.file.blocks):
            span = None if index in part.here else find(block.sha256)
            data = None if span is None else _read(span)
            if data is None or not _is(block, data):
                continue
            self._announce(part.path, len(data))
            _write(descriptor, data, part.places[index].offset)
            part.here.add(index)

    def _find_damage(self, part: _Part, descriptor: int) -> BlockError:
        _find_written(part, descriptor)
        bad = len(part.missing())
        with self._lock:
            self._want(part)
        name = part.file.sha256[:12]
        if bad:
            return BlockError(
                f"{bad} blocks of file {name} were damaged on this disk and are dropped; deploy again"
            )
        return BlockError(
            f"file {name} does not match its digest although every block does: pack the model again"
        )

    def _want(self, part: _Part) -> None:
        """Let ``put`` know what is missing. The lock is held."""
        for index, block in enumerate(part.file.blocks):
            if index not in part.here:
                self._wanted.setdefault(block.sha256, set()).add((part, index))

    def _forget(self, files: Collection[str]) -> None:
        """Nothing is to be written to these any more. The lock is held."""
        for sha in files:
            self._parts.pop(sha, None)
        for sha, places in list(self._wanted.items()):
            left = {place for place in places if place[0].file.sha256 not in files}
            if left:
                self._wanted[sha] = left
            else:
                del self._wanted[sha]

    def _path(self, file: File) -> Path:
        return self._folder / file.sha256


def spans_of(path: Path, file: File) -> Iterator[Span]:
    """Where each of the file's blocks lies in it."""
    offset = 0
    for block in file.blocks:
        yield Span(path, offset, block.size)
        offset += block.size


def digest_of_file(descriptor: int) -> str:
    """SHA-256 of all that an open file holds, in hex."""
    digest, offset = hashlib.sha256(), 0
    while data := os.pread(descriptor, READ_BYTES, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor; what the disk refuses meanwhile is a StoreError."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk.store_error(path, error) from error


def _write(descriptor: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(descriptor, left, offset)
        left, offset = left[done:], offset + done


def _read(span: Span) -> bytes | None:
    """A block of another file; None when it cannot be read: it is fetched instead."""
    try:
        with span.file.open("rb") as file:
            return os.pread(file.fileno(), span.size, span.offset)
    except OSError:
        return None


def _find_written(part: _Part, descriptor: int) -> None:
    """Note which blocks are in the file: holes are not read, the rest counts when its hash is right."""
    part.here.clear()
    with part.reading:
        part.read, part.digest = 0, hashlib.sha256()
    for index, (block, place) in enumerate(zip(part.file.blocks, part.places, strict=True)):
        try:
            begins = os.lseek(descriptor, place.offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing was written from here on
            return
        if begins < place.offset + place.size and _is(block, os.pread(descriptor, place.size, place.offset)):
            part.here.add(index)


def _is(block: Block, data: bytes) -> bool:
    try:
        check_block(block, data)
    except BlockError:
        return False
    return True
