"""Memory as the overlay reaches it: buffers at physical addresses, and regions of them."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import DeviceError

PAGE = 4096
FIRST_ADDRESS = 0x1000_0000
MAX_BYTES = 512 << 20  # in all; a PYNQ-Z2 has as much memory
UNWRITTEN = 0xA5  # so that what reads memory that nobody wrote is seen

Bytes = NDArray[np.uint8]


class NumpyBuffer:
    """See ``hal.Buffer``."""

    def __init__(self, memory: Memory, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self.bytes: Bytes = np.full(nbytes, UNWRITTEN, np.uint8)
        self._memory = memory

    def write(self, offset: int, data: bytes) -> None:
        """See ``hal.Buffer.write``."""
        self._check(offset, len(data))
        self.bytes[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, offset: int, nbytes: int) -> bytes:
        """See ``hal.Buffer.read``."""
        self._check(offset, nbytes)
        return self.bytes[offset : offset + nbytes].tobytes()

    def close(self) -> None:
        """See ``hal.Buffer.close``."""
        self._memory.free(self)

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"bytes {offset} to {offset + nbytes} are not in a buffer of {self.nbytes}")


class Memory:
    """Every buffer of one board."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._next = FIRST_ADDRESS
        self._buffers: dict[int, NumpyBuffer] = {}
        self._starts: list[int] = []

    @property
    def used(self) -> int:
        """Bytes in buffers that are not closed."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def buffers(self) -> tuple[NumpyBuffer, ...]:
        """Those that are not closed."""
        return tuple(self._buffers.values())

    def allocate(self, nbytes: int) -> NumpyBuffer:
        """See ``hal.OverlayTransport.allocate``."""
        if nbytes < 1:
            raise ValueError(f"a buffer has at least one byte, not {nbytes}")
        if self.used + nbytes > self._limit:
            raise DeviceError(
                f"no memory for {nbytes} bytes: {self.used} of {self._limit} are in use; unload a program"
            )
        buffer = NumpyBuffer(self, self._next, nbytes)
        self._next += -(-nbytes // PAGE) * PAGE + PAGE  # a page between buffers: nothing runs over unseen
        self._buffers[buffer.address] = buffer
        self._starts.append(buffer.address)
        return buffer

    def free(self, buffer: NumpyBuffer) -> None:
        """Forget a buffer; harmless when it is forgotten already."""
        if self._buffers.pop(buffer.address, None) is not None:
            self._starts.remove(buffer.address)

    def at(self, address: int, nbytes: int) -> Bytes | None:
        """The bytes that lie there; None when they are in no buffer."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        buffer = self._buffers[self._starts[index]]
        first = address - buffer.address
        return buffer.bytes[first : first + nbytes] if first + nbytes <= buffer.nbytes else None


def strided(flat: NDArray[Any], first: int, runs: int, step: int, length: int) -> NDArray[Any]:
    """``runs`` windows of ``length`` elements, ``step`` apart, from ``first`` on: a view; bounds are the caller's."""
    size = flat.itemsize
    return np.lib.stride_tricks.as_strided(flat[first:], (runs, length), (step * size, size))
