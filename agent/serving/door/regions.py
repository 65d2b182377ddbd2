"""Shared memory that clients have registered: the daemon's table, which every worker follows.

POSIX regions (Triton's system shared memory extension) are files in /dev/shm that workers read and write by position,
so that a client that truncates one gets an error and nobody a SIGBUS. A memfd that cannot shrink is mapped instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import OverlaidError, WorkerCrashed, WorkerTimeout
from agent.serving.http.messages import RequestError
from agent.serving.processes.process import ANSWER_S, Worker
from agent.serving.protocol.numbers import whole

SHM_FOLDER = Path("/dev/shm")  # noqa: S108  (where shm_open of the C library makes its files)
# Of both one user may have half: nobody fills the table for the others.
MAX_REGIONS = 256
MAX_BYTES = 1 << 30
MAX_NAME = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Region:
    """Registered memory: ``byte_size`` bytes from ``offset`` of ``fd``, for connections of the user ``uid`` only.

    ``key``: its name in /dev/shm, None for a memfd.
    """

    uid: int
    name: str
    key: str | None
    offset: int
    byte_size: int
    fd: int

    def status(self) -> dict[str, Any]:
        """As the system shared memory extension shows it."""
        key = "memfd" if self.key is None else self.key
        return {"name": self.name, "key": key, "offset": self.offset, "byte_size": self.byte_size}


def posix_region(uid: int, name: str, wanted: dict[str, Any], folder: Path = SHM_FOLDER) -> Region:
    """Open what the body of a register call asks for: ``{"key", "offset", "byte_size"}``.

    Raises RequestError: 400 when it makes no sense, 403 when the file is not the user's own.
    """
    checked_name(name)
    key, offset, size = wanted.get("key"), whole(wanted.get("offset", 0)), whole(wanted.get("byte_size"))
    if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME:
        raise RequestError(400, f"'key' must be a string of 1 to {MAX_NAME} characters")
    if offset is None or size is None or offset < 0 or size <= 0:
        raise RequestError(400, "'offset' must be an integer from 0, 'byte_size' an integer from 1")
    file = key.removeprefix("/")  # shm_open takes names with a leading slash
    if "/" in file or "\0" in file or file in ("", ".", ".."):
        raise RequestError(400, f"'key' {key!r} must name a file in {folder}, without slashes")
    fd = _open_own(folder / file, uid)
    try:
        _check_bounds(os.fstat(fd).st_size, offset, size)
    except BaseException:
        os.close(fd)
        raise
    return Region(uid, name, key, offset, size, fd)


def memfd_region(uid: int, name: str, fd: int) -> Region:
    """A region of all of a memfd, which is duplicated; RequestError 400 unless it is sealed against shrinking."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if not seals & fcntl.F_SEAL_SHRINK:
        raise RequestError(
            400, "the memory must be a memfd sealed with F_SEAL_SHRINK: it could be cut while in use"
        )
    size, pages = os.fstat(fd).st_size, os.fstatvfs(fd).f_bsize
    if seals & fcntl.F_SEAL_WRITE or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise RequestError(400, "the memfd must be writable: outputs may be put there")
    if pages != os.sysconf(
        "SC_PAGE_SIZE"
    ):  # huge pages may run out at the first touch, which kills who touches
        raise RequestError(400, "the memfd must consist of normal pages, not of huge ones")
    if size == 0:
        raise RequestError(400, "the memfd is empty; give it a size with ftruncate")
    return Region(uid, checked_name(name), None, 0, size, os.dup(fd))


class RegionTable:
    """The regions of all users, by user and name: names of different users do not meet."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._regions: dict[tuple[int, str], Region] = {}
        self._workers: set[Worker] = set()
        self._turn = asyncio.Lock()  # workers hear of changes in the order in which they happen

    async def introduce(self, worker: Worker) -> None:
        """Tell a worker of every region, now and until it ends. Raises WorkerError."""
        async with self._turn:
            self._workers = {other for other in self._workers if not other.gone.is_set()} | {worker}
            for region in self._regions.values():
                await _tell(worker, region)

    async def add(self, region: Region) -> None:
        """Register; returns when every worker has it. The descriptor belongs to the table, also after an error.

        Raises RequestError 409 (name taken) or 503 (no room), and the OverlaidError of a worker that cannot map it.
        """
        async with self._turn:
            await self._forget_removed()
            try:
                self._check_room(region)
            except RequestError:
                os.close(region.fd)
                raise
            self._regions[region.uid, region.name] = region
            try:
                await self._broadcast(region)
            except BaseException:
                await self._remove(region)
                raise

    async def remove(self, uid: int, name: str | None = None) -> None:
        """Unregister one region of a user, or all; nothing happens when there is none. Runs in progress keep theirs."""
        async with self._turn:
            for region in self.own(uid, name):
                await self._remove(region)

    async def discard(self, region: Region) -> None:
        """Unregister exactly this one, unless that has happened already."""
        async with self._turn:
            if self._regions.get((region.uid, region.name)) is region:
                await self._remove(region)

    def own(self, uid: int, name: str | None = None) -> list[Region]:
        """Regions of a user, by name when one is given."""
        return [r for r in self._regions.values() if r.uid == uid and name in (None, r.name)]

    async def forget_removed(self) -> None:
        """Unregister POSIX regions whose file was removed: a client that ends would else leave its memory behind."""
        async with self._turn:
            await self._forget_removed()

    def close(self) -> None:
        """Close every descriptor."""
        for region in self._regions.values():
            os.close(region.fd)
        self._regions.clear()

    def _check_room(self, region: Region) -> None:
        if (region.uid, region.name) in self._regions:
            raise RequestError(
                409, f"shared memory region {region.name!r} is registered already; unregister it first"
            )
        own = self.own(region.uid)
        if len(self._regions) >= MAX_REGIONS or len(own) >= MAX_REGIONS // 2:
            raise RequestError(
                503, f"{len(own)} shared memory regions are registered by this user; unregister some"
            )
        used, used_by_all = (sum(each.byte_size for each in some) for some in (own, self._regions.values()))
        if used_by_all + region.byte_size > self._max_bytes or used + region.byte_size > self._max_bytes // 2:
            raise RequestError(
                503,
                f"{region.byte_size} more bytes of shared memory are too much: {used} of {self._max_bytes // 2} are "
                "registered by this user; unregister some",
            )

    async def _forget_removed(self) -> None:
        for region in list(self._regions.values()):
            if region.key is not None and os.fstat(region.fd).st_nlink == 0:
                await self._remove(region)

    async def _remove(self, region: Region) -> None:
        del self._regions[region.uid, region.name]
        os.close(region.fd)
        try:
            await self._broadcast(region, gone=True)
        except OverlaidError as error:
            log.warning("region %s is still with a worker: %s", region.name, error)

    async def _broadcast(self, region: Region, gone: bool = False) -> None:
        answers = await asyncio.gather(
            *(_tell(worker, region, gone) for worker in self._workers if not worker.gone.is_set()),
            return_exceptions=True,
        )
        for answer in answers:
            # A worker that ended meanwhile has no memory of anything; its successor is introduced anew.
            if isinstance(answer, BaseException) and not isinstance(answer, (WorkerCrashed, WorkerTimeout)):
                raise answer


async def _tell(worker: Worker, region: Region, gone: bool = False) -> None:
    if gone:
        await worker.ask("forget-region", ANSWER_S, uid=region.uid, name=region.name)
        return
    await worker.ask(
        "region",
        ANSWER_S,
        fds=[region.fd],
        uid=region.uid,
        name=region.name,
        mapped=region.key is None,
        offset=region.offset,
        byte_size=region.byte_size,
    )


def _open_own(path: Path, uid: int) -> int:
    """The descriptor of a regular file that belongs to ``uid``; no symbolic link is followed, no pipe waited for."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        status = 404 if isinstance(error, FileNotFoundError) else 403
        raise RequestError(
            status,
            f"cannot open the shared memory {path}: {error.strerror}; this service must be allowed to read and "
            "write it (agent.serving.client passes memory that needs no such right)",
        ) from error
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == uid:
        return fd
    os.close(fd)
    if not stat.S_ISREG(found.st_mode):
        raise RequestError(403, f"{path} is not a regular file")
    raise RequestError(
        403, f"{path} belongs to the user {found.st_uid}; only its owner may register it, not {uid}"
    )


def _check_bounds(length: int, offset: int, size: int) -> None:
    if offset + size > length:
        raise RequestError(
            400, f"offset {offset} and byte_size {size} lie outside of the {length} bytes there are"
        )


def checked_name(name: str) -> str:
    """Return the name when a region may have it; RequestError 400 otherwise."""
    if not 0 < len(name) <= MAX_NAME or not (name.isascii() and name.isprintable()):
        raise RequestError(400, f"a region's name must have 1 to {MAX_NAME} printable ASCII characters")
    return name
