"""Shared memory that clients have registered, as a worker reads and writes it.

A memfd that cannot shrink is mapped: no copy. Anything else is read and written by position: a file that was cut gives
an error, where a mapping would end the process with SIGBUS.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import numpy as np

from agent.serving.http.connection import Connection
from agent.serving.http.messages import RequestError
from agent.serving.protocol.data import Array


@dataclass(slots=True)
class _Mapped:
    """Arrays over ``memory`` keep it mapped, also after it was unregistered."""

    byte_size: int
    memory: mmap.mmap

    def read(self, offset: int, nbytes: int) -> memoryview:
        return memoryview(self.memory)[offset : offset + nbytes]

    def write(self, offset: int, data: memoryview) -> int:
        self.memory[offset : offset + len(data)] = data
        return len(data)


class _File:
    """``start``: of the region in the file."""

    def __init__(self, fd: int, start: int, byte_size: int) -> None:
        self.byte_size = byte_size
        self._fd, self._start = fd, start

    def __del__(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, nbytes: int) -> memoryview:
        data = np.empty(nbytes, np.uint8).data
        return data[: os.preadv(self._fd, [data], self._start + offset)]

    def write(self, offset: int, data: memoryview) -> int:
        end = self._start + offset + len(data)
        if os.fstat(self._fd).st_size < end:  # writing behind its end would make the file larger again
            return 0
        return os.pwrite(self._fd, data, self._start + offset)


class WorkerRegions:
    """What the daemon has told of. ``largest``: bytes that one tensor may have."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._known: dict[tuple[int, str], _Mapped | _File] = {}

    def add(self, uid: int, name: str, fd: int, mapped: bool, offset: int, byte_size: int) -> None:
        """Register; the descriptor belongs to this object. OSError when it cannot be mapped."""
        if not mapped:
            self._known[uid, name] = _File(fd, offset, byte_size)
            return
        try:
            self._known[uid, name] = _Mapped(byte_size, mmap.mmap(fd, byte_size))
        finally:
            os.close(fd)

    def forget(self, uid: int, name: str) -> None:
        """Unregister; a run that uses it goes on."""
        self._known.pop((uid, name), None)

    def of(self, connection: Connection) -> ClientRegions:
        """What the client at the other end of a connection may use."""
        return ClientRegions(self, connection)

    def read(self, uid: int, name: str, offset: int, nbytes: int) -> memoryview:
        """See ``protocol.request.Regions``."""
        data = self._find(uid, name, offset, nbytes).read(offset, nbytes)
        if len(data) < nbytes:
            raise _cut(name)
        return data

    def write(self, uid: int, name: str, offset: int, array: Array) -> None:
        """See ``protocol.request.Regions``."""
        region = self._find(uid, name, offset, array.nbytes)
        if region.write(offset, array.data) < array.nbytes:
            raise _cut(name)

    def _find(self, uid: int, name: str, offset: int, nbytes: int) -> _Mapped | _File:
        region = self._known.get((uid, name))
        if region is None:
            raise RequestError(
                404,
                f"shared memory region {name[:128]!r} is not registered by this client's user; register it (again: a "
                "restart of the service forgets it); it needs serving.shared_memory = true",
            )
        if offset < 0 or nbytes < 0 or offset + nbytes > region.byte_size:
            raise RequestError(
                400,
                f"{nbytes} bytes from {offset} lie outside of shared memory region {name[:128]!r}, which has "
                f"{region.byte_size}",
            )
        if nbytes > self._largest:
            raise RequestError(
                413, f"a tensor of {nbytes} bytes is too large; this model takes {self._largest}"
            )
        return region


class ClientRegions:
    """The regions of one client, whose user is looked up at the first use."""

    __slots__ = ("_connection", "_regions")

    def __init__(self, regions: WorkerRegions, connection: Connection) -> None:
        self._regions = regions
        self._connection = connection

    def read(self, name: str, offset: int, nbytes: int, /) -> memoryview:
        return self._regions.read(self._connection.peer.uid, name, offset, nbytes)

    def write(self, name: str, offset: int, array: Array, /) -> None:
        self._regions.write(self._connection.peer.uid, name, offset, array)


def _cut(name: str) -> RequestError:
    return RequestError(
        400, f"shared memory region {name[:128]!r} is smaller than it was registered; register it again"
    )
