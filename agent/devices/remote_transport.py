"""An overlay that overlaid-fpga.service has loaded: the transport ``remote``, for processes without root.

Every exchange with the service costs two changes of process, so writes wait for the next read, start or wait and go
with it, and the end of a wait brings the registers that a driver reads next. An inference takes three exchanges.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.devices.fpga_service.wire import MAX_STEPS, MAX_WAIT_S, WORD, receive, send, socket_path
from agent.errors import DeviceLost, RuntimeUnavailable, from_name, one_line
from agent.hal import OverlayTransport
from agent.overlay.spec import read_spec

ANSWER_S = 10.0
TURN_S = 50.0  # other processes may be waited for, and a bitstream loaded
START = 0x1
HELP = "see: systemctl status overlaid-fpga, journalctl -u overlaid-fpga"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """``model``: the board's own name, may be empty. ``overlay``: what is loaded. ``clients``: the processes that share
    the FPGA, one for each session."""

    model: str
    overlay: str | None
    clients: tuple[int, ...]


def open_transport(folder: Path) -> OverlayTransport:
    """Have the service load the overlay in ``folder``, which it must be allowed to load from.

    Raises OverlayLoadError, RuntimeUnavailable (no service, no right to use it), DeviceError (lent to too many) and
    OverlayHung (others keep it).
    """
    return RemoteTransport(Connection(), folder)


def ask_status() -> ServiceStatus:
    """Whether the service is there. RuntimeUnavailable when it is not."""
    connection = Connection()
    try:
        answer = connection.ask({"op": "status"})[0]
        return ServiceStatus(str(answer["model"]), answer["overlay"], tuple(answer["clients"]))
    except (KeyError, TypeError) as error:
        raise RuntimeUnavailable(f"the FPGA service gave a strange answer; {HELP}") from error
    finally:
        connection.close()


class Connection:
    """A socket to the service."""

    def __init__(self) -> None:
        """RuntimeUnavailable when nobody answers."""
        path = socket_path()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(ANSWER_S)
        try:
            self._sock.connect(str(path))
        except PermissionError as error:
            self._sock.close()
            raise RuntimeUnavailable(
                f"this user may not use the FPGA ({path}); the agent's user and its group may"
            ) from error
        except OSError as error:
            self._sock.close()
            raise RuntimeUnavailable(
                f"overlaid-fpga.service does not answer on {path} ({error.strerror or error}); {HELP}"
            ) from error

    def ask(self, request: dict[str, Any], timeout_s: float = ANSWER_S) -> tuple[Any, int | None]:
        """The answer and the descriptor that came with it. Raises the service's named error, or DeviceLost."""
        try:
            self._sock.settimeout(timeout_s)
            with contextlib.suppress(
                BrokenPipeError
            ):  # refused before it was asked: the reason can still be read
                send(self._sock, request)
            try:
                packet, fd = receive(self._sock)
            except ConnectionResetError:  # it ended before it read this; what it said then comes next
                packet, fd = receive(self._sock)
            answer = json.loads(packet) if packet else {}
        except (OSError, ValueError) as error:
            self.close()
            raise DeviceLost(
                f"the FPGA service does not answer any more ({one_line(error)}); {HELP}"
            ) from error
        if isinstance(answer, dict) and "ok" in answer:
            return answer["ok"], fd
        if fd is not None:
            os.close(fd)
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise from_name(str(answer["error"].get("name")), str(answer["error"].get("text")))
        self.close()
        raise DeviceLost(f"the FPGA service ended the connection; load the overlay again, or {HELP}")

    def close(self) -> None:
        """The service frees all that this connection had."""
        self._sock.close()


class RemoteTransport:
    """See ``hal.OverlayTransport``."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        """See ``open_transport``; closes the connection when the overlay is not loaded."""
        self._connection = connection
        self._waiting: list[tuple[str, int, int, int]] = []  # steps that go with the next exchange
        self._known: dict[int, int] = {}  # registers that stand still until the next start
        self._ends: tuple[int, ...] = ()
        self._buffers: dict[int, RemoteBuffer] = {}
        try:
            spec = read_spec(folder)
            self._control = spec.register("CONTROL")
            self._connection.ask({"op": "open", "folder": str(folder.resolve())}, TURN_S)
        except BaseException:
            connection.close()
            raise

    def read32(self, offset: int) -> int:
        """See ``hal.OverlayTransport.read32``."""
        known = self._known.get(offset)
        return self.do(("read", offset, 0, 0))[-1] if known is None else known

    def write32(self, offset: int, value: int) -> None:
        """See ``hal.OverlayTransport.write32``. A write that the service refuses raises no later than the next start or
        read."""
        if not 0 <= value <= WORD:
            raise ValueError(f"a register holds 32 bits, not {value}")
        if offset != self._control:
            self._known.pop(offset, None)
            self.later(("write", offset, value, 0))
            return
        self._known.clear()
        self._ends = ()
        self.do(("write", offset, value, 0))

    def allocate(self, nbytes: int) -> RemoteBuffer:
        """See ``hal.OverlayTransport.allocate``."""
        if nbytes < 1:
            raise ValueError(f"a buffer has at least one byte, not {nbytes}")
        self.do()
        answer, fd = self._connection.ask({"op": "allocate", "nbytes": nbytes})
        if fd is None:
            raise DeviceLost(f"the FPGA service lent no memory; {HELP}")
        try:
            memory = mmap.mmap(fd, nbytes)
        finally:
            os.close(fd)
        buffer = RemoteBuffer(self, answer["buffer"], answer["address"], nbytes, memory)
        self._buffers[answer["buffer"]] = buffer
        return buffer

    def wait(self, timeout_s: float) -> bool:
        """See ``hal.OverlayTransport.wait``."""
        self.do()
        left = timeout_s
        while True:
            slice_s = min(left, MAX_WAIT_S)
            answer = self._connection.ask({"op": "wait", "timeout_s": slice_s}, slice_s + ANSWER_S)[0]
            if answer is not None:
                self._known = {int(offset): value for offset, value in answer["registers"].items()}
                self._ends = tuple(answer["ends"])
                return True
            left -= slice_s
            if left <= 0:
                return False

    def give_way(self) -> None:
        """See ``hal.OverlayTransport.give_way``. A turn is over when something is fetched after a chain has ended: any
        byte will do, the service's is this side's."""
        if self._buffers:
            self.later(("pull", next(iter(self._buffers)), 0, 1))

    def compute_ends(self) -> Sequence[int]:
        """See ``hal.OverlayTransport.compute_ends``: known once a wait has seen the end."""
        return self._ends

    def close(self) -> None:
        """See ``hal.OverlayTransport.close``."""
        for buffer in tuple(self._buffers.values()):
            buffer.forget()
        self._connection.close()

    def later(self, step: tuple[str, int, int, int]) -> None:
        """Do a step with the next exchange."""
        if len(self._waiting) >= MAX_STEPS:
            self.do()
        self._waiting.append(step)

    def do(self, *steps: tuple[str, int, int, int]) -> list[int]:
        """Do all that waits and these steps now; the values read."""
        for step in steps:
            self.later(step)
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        values: list[int] = self._connection.ask({"op": "steps", "steps": waiting}, TURN_S)[0]
        return values

    def free(self, number: int) -> None:
        """Give a buffer back."""
        if self._buffers.pop(number, None) is not None:
            self.do()
            self._connection.ask({"op": "free", "buffer": number})


class RemoteBuffer:
    """See ``hal.Buffer``. ``memory``: shared with the service, which copies between it and the FPGA's."""

    def __init__(
        self, transport: RemoteTransport, number: int, address: int, nbytes: int, memory: mmap.mmap
    ) -> None:
        self.address, self.nbytes = address, nbytes
        self._transport, self._number, self._memory = transport, number, memory

    def write(self, offset: int, data: bytes) -> None:
        """See ``hal.Buffer.write``."""
        self._check(offset, len(data))
        self._memory[offset : offset + len(data)] = data
        self._transport.later(("push", self._number, offset, len(data)))

    def read(self, offset: int, nbytes: int) -> bytes:
        """See ``hal.Buffer.read``."""
        self._check(offset, nbytes)
        self._transport.do(("pull", self._number, offset, nbytes))
        return self._memory[offset : offset + nbytes]

    def close(self) -> None:
        """See ``hal.Buffer.close``."""
        self.forget()
        with contextlib.suppress(DeviceLost):  # the service has freed it
            self._transport.free(self._number)

    def forget(self) -> None:
        """Unmap the memory."""
        self._memory.close()

    def _check(self, offset: int, nbytes: int) -> None:
        if self._memory.closed:
            raise ValueError("the buffer is closed")
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} are not in a buffer of {self.nbytes}")
