"""One client's use of the FPGA: its overlay, its buffers, and what its requests do."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from typing import Any

from agent.devices.fpga_service.guard import DONE, ERROR, Guard
from agent.devices.fpga_service.wire import (
    MAX_BUFFERS,
    MAX_BYTES,
    MAX_ENDS,
    AllocateRequest,
    FreeRequest,
    Step,
    StepsRequest,
    WaitRequest,
)  # fmt: skip
from agent.errors import DeviceError
from agent.hal import Buffer, OverlayTransport
from agent.overlay.spec import Overlay

SLICE_S = 0.1  # a wait looks that often whether its client is still there
ZEROS = 1 << 20  # bytes that are cleared at a time


class Shared:
    """A buffer of the FPGA and the memory through which its client fills and reads it."""

    def __init__(self, buffer: Buffer, nbytes: int) -> None:
        self.buffer, self.nbytes = buffer, nbytes
        self.fd = os.memfd_create("overlaid-fpga", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, nbytes)
            # A client that shrank it would end this process when it copies.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
            self._memory = mmap.mmap(self.fd, nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        for offset in range(0, nbytes, ZEROS):  # what it held before is nobody's business
            buffer.write(offset, bytes(min(ZEROS, nbytes - offset)))

    def push(self, offset: int, nbytes: int) -> None:
        """From the client's memory to the FPGA's."""
        self.buffer.write(offset, self._memory[offset : offset + nbytes])

    def pull(self, offset: int, nbytes: int) -> None:
        """From the FPGA's memory to the client's."""
        self._memory[offset : offset + nbytes] = self.buffer.read(offset, nbytes)

    def forget(self) -> None:
        """Unmap the client's memory; the FPGA's stays."""
        self._memory.close()
        os.close(self.fd)


class Session:
    """From a client's ``open`` to its end. One thread."""

    def __init__(self, transport: OverlayTransport, spec: Overlay) -> None:
        """OverlayLoadError when the overlay's registers are none that can be guarded."""
        self.spec = spec
        self._guard = Guard(spec)
        self._transport = transport
        self._status = spec.register("STATUS")
        self._results = [spec.register(name) for name in spec.registers if _is_result(spec, name)]
        self._buffers: dict[int, Shared] = {}
        self._doomed: list[Buffer] = []  # freed by the client while the core may still use them
        self._next = 1

    def steps(self, request: StepsRequest) -> list[int]:
        """The values read. Ends at the first step that is refused."""
        return [value for step in request.steps if (value := self._step(step)) is not None]

    def allocate(self, request: AllocateRequest) -> tuple[dict[str, int], int]:
        """The answer, and the descriptor of the client's memory (which stays this session's)."""
        self._bury()
        held = sum(shared.nbytes for shared in self._buffers.values()) + sum(b.nbytes for b in self._doomed)
        if len(self._buffers) >= MAX_BUFFERS or held + request.nbytes > MAX_BYTES:
            raise DeviceError(
                f"no memory for {request.nbytes} bytes more: this client has {len(self._buffers)} buffers of {held} "
                f"bytes, at most {MAX_BUFFERS} of {MAX_BYTES} are lent; load fewer models on the FPGA"
            )
        buffer = self._transport.allocate(request.nbytes)
        try:
            shared = Shared(buffer, request.nbytes)
        except OSError as error:
            buffer.close()
            raise DeviceError(f"no memory to share a buffer of {request.nbytes} bytes: {error}") from error
        number, self._next = self._next, self._next + 1
        self._buffers[number] = shared
        return {"buffer": number, "address": buffer.address}, shared.fd

    def free(self, request: FreeRequest) -> None:
        """Take a buffer from the client at once, and free it when the core has come to rest."""
        shared = self._buffers.pop(request.buffer, None)
        if shared is None:
            raise DeviceError(f"this client has no buffer {request.buffer}")
        shared.forget()
        self._doomed.append(shared.buffer)
        self._bury()

    def wait(self, request: WaitRequest, gone: Callable[[], bool]) -> dict[str, Any] | None:
        """None when the core has not interrupted in time, or when the client is ``gone``."""
        deadline = time.monotonic() + request.timeout_s
        while not self._transport.wait(max(0.0, min(SLICE_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or gone():
                return None
        registers = {offset: self._transport.read32(offset) for offset in self._results}
        self._guard.see(registers[self._status])
        if not registers[self._status] & (DONE | ERROR):
            return None
        ends = tuple(self._transport.compute_ends())
        return {"registers": registers, "ends": ends if len(ends) <= MAX_ENDS else ()}

    def close(self) -> None:
        """Free everything: the transport stops the core before it gives memory back."""
        for shared in self._buffers.values():
            with contextlib.suppress(OSError):
                shared.forget()
        self._buffers.clear()
        self._doomed.clear()
        self._transport.close()

    def _step(self, step: Step) -> int | None:
        kind, first, second, third = step
        if kind == "write":
            spans = ((shared.buffer.address, shared.nbytes) for shared in self._buffers.values())
            for offset, value in self._guard.write(first, second, spans, self._read_status):
                self._transport.write32(offset, value)
            return None
        if kind == "read":
            held = self._guard.held(first)
            value = self._transport.read32(first) if held is None else held
            if first == self._status:
                self._guard.see(value)
            return value
        shared = self._buffers.get(first)
        if shared is None or second + third > shared.nbytes:
            raise DeviceError(f"{third} bytes at {second} are not in a buffer {first} of this client")
        (shared.push if kind == "push" else shared.pull)(second, third)
        return None

    def _read_status(self) -> int:
        return self._transport.read32(self._status)

    def _bury(self) -> None:
        if self._doomed and not self._guard.at_rest:
            self._guard.see(self._read_status())
        while self._doomed and self._guard.at_rest:
            self._doomed.pop().close()


def _is_result(spec: Overlay, name: str) -> bool:
    """STATUS and what can be read alone, which stand still once the core has ended."""
    return name == "STATUS" or spec.registers[name].access == "ro"
