"""One client's use of the FPGA: its buffers, its view of the core, and what its requests do."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from typing import Any

from agent.devices.fpga_service.folders import Place
from agent.devices.fpga_service.fpga import Fpga
from agent.devices.fpga_service.guard import BUSY, DONE, ERROR, SOFT_RESET, START, Guard
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
from agent.errors import DeviceError, OverlayHung, OverlayTaken
from agent.hal import Buffer
from agent.overlay.spec import Overlay

SLICE_S = 0.02  # while it waits for the core, others get at the FPGA that often
LET_IN_S = 0.0005
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
    """From a client's ``open`` to its end. One thread.

    Its client sees a core of its own. While it is another one's turn, that core stands still: it can be reset and set
    up, says what it said when the turn was lost, and a start waits for the turn.
    """

    def __init__(self, fpga: Fpga, spec: Overlay, place: Place, pid: int, gone: Callable[[], bool]) -> None:
        """Loads the overlay in ``place`` when another one is there. ``gone``: whether the client is.

        OverlayLoadError when that fails, or when its registers are none that can be guarded. OverlayHung when the FPGA
        does not get free.
        """
        self.pid, self.place = pid, place
        self._fpga, self._spec, self._gone = fpga, spec, gone
        self._guard = Guard(spec)
        self._status, self._control = spec.register("STATUS"), spec.register("CONTROL")
        self._results = [spec.register(name) for name in spec.registers if _is_result(spec, name)]
        self._buffers: dict[int, Shared] = {}
        self._doomed: list[Buffer] = []  # freed by the client while the core may still use them
        self._next = 1
        self._ran = self._lost = (
            False  # whether it started since its last reset; and whether another one did since
        )
        self._stopped = ""  # why its chain did not end
        self._kept: dict[int, int] = {}  # the registers while it is not its turn
        self._ends: tuple[int, ...] = ()
        with fpga.monitor:
            self._number = fpga.enter(self)
            try:
                fpga.take(self._number, gone)
                fpga.turns.cleared()
                self._fresh = {r.offset: fpga.transport.read32(r.offset) for r in spec.registers.values()}
            except BaseException:
                fpga.leave(self._number, ())
                raise

    def steps(self, request: StepsRequest) -> list[int]:
        """The values read. Ends at the first step that is refused."""
        with self._fpga.monitor:
            return [value for step in request.steps if (value := self._step(step)) is not None]

    def allocate(self, request: AllocateRequest) -> tuple[dict[str, int], int]:
        """The answer, and the descriptor of the client's memory (which stays this session's)."""
        with self._fpga.monitor:
            self._bury()
            count, held = self._fpga.lent()
            if count >= MAX_BUFFERS or held + request.nbytes > MAX_BYTES:
                raise DeviceError(
                    f"no memory for {request.nbytes} bytes more: {count} buffers of {held} bytes are lent to "
                    f"{len(self._fpga.clients)} processes, at most {MAX_BUFFERS} of {MAX_BYTES}; load fewer models on "
                    "the FPGA"
                )
            buffer = self._fpga.transport.allocate(request.nbytes)
            try:
                shared = Shared(buffer, request.nbytes)
            except OSError as error:
                buffer.close()
                raise DeviceError(
                    f"no memory to share a buffer of {request.nbytes} bytes: {error}"
                ) from error
            number, self._next = self._next, self._next + 1
            self._buffers[number] = shared
            return {"buffer": number, "address": buffer.address}, shared.fd

    def free(self, request: FreeRequest) -> None:
        """Take a buffer from the client at once, and free it when the core has come to rest."""
        with self._fpga.monitor:
            shared = self._buffers.pop(request.buffer, None)
            if shared is None:
                raise DeviceError(f"this client has no buffer {request.buffer}")
            shared.forget()
            self._doomed.append(shared.buffer)
            self._bury()

    def wait(self, request: WaitRequest) -> dict[str, Any] | None:
        """None when the core has not interrupted in time, or when the client is gone."""
        deadline = time.monotonic() + request.timeout_s
        while True:
            with self._fpga.monitor:
                left = max(0.0, min(SLICE_S, deadline - time.monotonic()))
                if not self._has_turn or self._fpga.transport.wait(left):
                    return self._ended()
            if time.monotonic() >= deadline or self._gone():
                return None
            time.sleep(LET_IN_S)

    def close(self) -> None:
        """Free everything: the core is stopped before it gives memory back."""
        with self._fpga.monitor:
            for shared in self._buffers.values():
                with contextlib.suppress(OSError):
                    shared.forget()
            self._fpga.leave(self._number, self.memory)
            self._buffers.clear()
            self._doomed.clear()

    @property
    def memory(self) -> tuple[Buffer, ...]:
        """See ``Tenant.memory``."""
        return (*(shared.buffer for shared in self._buffers.values()), *self._doomed)

    def lose(self) -> None:
        """See ``Tenant.lose``."""
        self._lost, self._stopped, self._kept = self._ran, "its registers did not answer", {}
        status = self._read_core(self._status)
        self._kept = {offset: self._read_core(offset) for offset in self._fresh}
        self._ends = tuple(self._fpga.transport.compute_ends())
        self._stopped = "it still ran when others had waited for long" if status & BUSY else ""

    def rest(self) -> None:
        """See ``Tenant.rest``."""
        self._guard.rest()
        self._bury()

    @property
    def _has_turn(self) -> bool:
        return self._fpga.turns.holder == self._number

    def _step(self, step: Step) -> int | None:
        kind, first, second, third = step
        if kind == "write":
            self._write(first, second)
            return None
        if kind == "read":
            held = self._guard.held(first)
            return self._read(first) if held is None else held
        shared = self._buffers.get(first)
        if shared is None or second + third > shared.nbytes:
            raise DeviceError(f"{third} bytes at {second} are not in a buffer {first} of this client")
        (shared.push if kind == "push" else shared.pull)(second, third)
        if kind == "pull" and self._has_turn:
            self._fpga.turns.fetched()
            self._fpga.monitor.notify_all()
        return None

    def _write(self, offset: int, value: int) -> None:
        reset, start = (offset == self._control and bool(value & bit) for bit in (SOFT_RESET, START))
        if start and not reset:
            self._guard.check(self._spans())
            self._await_turn()
        writes = self._guard.write(offset, value, self._spans(), lambda: self._read(self._status))
        if self._has_turn:
            for each in writes:
                self._fpga.transport.write32(*each)
        elif offset == self._status and self._kept:
            self._kept[offset] &= ~(value & DONE)
        if reset:
            self._ran = self._lost = False
            self._stopped, self._kept, self._ends = "", {}, ()
            if self._has_turn:
                self._fpga.turns.cleared()
                self._fpga.monitor.notify_all()
        elif start:
            self._ran = True
            self._fpga.turns.started(time.monotonic())

    def _await_turn(self) -> None:
        """OverlayTaken when what this client has put on the chip is gone."""
        if not self._lost:
            self._fpga.take(self._number, self._gone)
        if self._lost:
            raise OverlayTaken(
                "another process ran on the FPGA: reset the core, set its registers and run what loads the chip again"
            )

    def _read(self, offset: int) -> int:
        if self._has_turn:
            return self._read_core(offset)
        if offset == self._status:
            self._check_stopped()
        return self._kept.get(offset, self._fresh.get(offset, 0))

    def _read_core(self, offset: int) -> int:
        value = self._fpga.transport.read32(offset)
        if offset == self._status:
            self._guard.see(value)
            if not value & BUSY:
                self._fpga.turns.ended(time.monotonic())
        return value

    def _ended(self) -> dict[str, Any] | None:
        """What a client wants to know of a core that has ended. None when it has not."""
        self._check_stopped()
        registers = {offset: self._read(offset) for offset in self._results}
        if not registers[self._status] & (DONE | ERROR):
            return None
        ends = tuple(self._fpga.transport.compute_ends()) if self._has_turn else self._ends
        return {"registers": registers, "ends": ends if len(ends) <= MAX_ENDS else ()}

    def _check_stopped(self) -> None:
        if self._stopped:
            raise OverlayHung(f"the chain of this process was stopped: {self._stopped}; try again")

    def _spans(self) -> tuple[tuple[int, int], ...]:
        return tuple((shared.buffer.address, shared.nbytes) for shared in self._buffers.values())

    def _bury(self) -> None:
        if self._doomed and not self._guard.at_rest and self._has_turn:
            self._read_core(self._status)
        while self._doomed and self._guard.at_rest:
            self._doomed.pop().close()


def _is_result(spec: Overlay, name: str) -> bool:
    """STATUS and what can be read alone, which stand still once the core has ended."""
    return name == "STATUS" or spec.registers[name].access == "ro"
