"""What client and service say to each other: one JSON object a packet on a Unix SOCK_SEQPACKET socket.

A request is answered by ``{"ok": VALUE}`` or ``{"error": {"name": CLASS, "text": REASON}}``; a buffer's memory (a
sealed memfd that both map) travels beside the answer to ``allocate``.
"""

from __future__ import annotations

import array
import json
import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agent.errors import MessageError
from agent.validation import explain_validation

SOCKET = Path("/run/overlaid-fpga/socket")
SOCKET_VARIABLE = "OVERLAID_FPGA_SOCKET"  # another place, for tests and for boards with another /run
MAX_PACKET = 128 * 1024  # fits the default socket buffer of Linux (208 KiB)
MAX_STEPS = 256
MAX_BUFFERS = 256  # of all clients
MAX_BYTES = 256 << 20  # of all these buffers
MAX_WAIT_S = 1.0
MAX_ENDS = 8192
WORD = 0xFFFFFFFF

Unsigned = Annotated[int, Field(ge=0, le=WORD)]
# write: offset, value; read: offset; push (client's memory to the FPGA's), pull: buffer, offset, bytes
Step = tuple[Literal["write", "read", "push", "pull"], Unsigned, Unsigned, Unsigned]


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StatusRequest(Request):
    """Who shares the FPGA, and what is on it; the only one that needs no ``open`` before it."""

    op: Literal["status"]


class OpenRequest(Request):
    """Load the overlay in a folder."""

    op: Literal["open"]
    folder: str = Field(max_length=4096)


class StepsRequest(Request):
    """Do all of them in order; the answer is the values read."""

    op: Literal["steps"]
    steps: tuple[Step, ...] = Field(max_length=MAX_STEPS)


class AllocateRequest(Request):
    """The answer is the buffer's number and physical address."""

    op: Literal["allocate"]
    nbytes: int = Field(ge=1, le=1 << 62)  # the session says how much there is


class FreeRequest(Request):
    """Free a buffer."""

    op: Literal["free"]
    buffer: Unsigned


class WaitRequest(Request):
    """The answer is null, or, when the core has ended, its status, counters and ``compute_ends``."""

    op: Literal["wait"]
    timeout_s: float = Field(ge=0, le=MAX_WAIT_S)


AnyRequest = StatusRequest | OpenRequest | StepsRequest | AllocateRequest | FreeRequest | WaitRequest
_REQUEST: TypeAdapter[AnyRequest] = TypeAdapter(Annotated[AnyRequest, Field(discriminator="op")])


def socket_path() -> Path:
    """Where the service listens."""
    return Path(os.environ.get(SOCKET_VARIABLE) or SOCKET)


def parse_request(packet: bytes) -> AnyRequest:
    """Raises MessageError."""
    try:
        return _REQUEST.validate_json(packet)
    except ValidationError as error:
        raise MessageError(f"a request to the FPGA service: {explain_validation(error)}") from error


def send(sock: socket.socket, message: dict[str, Any], fd: int | None = None) -> None:
    """One packet, and a descriptor beside it; the caller keeps its own. Raises OSError."""
    rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sock.sendmsg([json.dumps(message, separators=(",", ":")).encode()], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[bytes, int | None]:
    """One packet and the descriptor that came with it; an empty packet at the end. Raises OSError."""
    packet, ancillary, flags, _ = sock.recvmsg(MAX_PACKET, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if flags & socket.MSG_TRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(f"a packet of more than {MAX_PACKET} bytes")
    return packet, fds[0] if fds else None
