"""Who is at the other end of a connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import sys
from pathlib import Path

from agent.serving.http.messages import RequestError

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
OVERFLOW = Path("/proc/sys/kernel/overflowuid")
_ESTABLISHED = "01"  # a socket that its owner has closed is listed as root's
_TRIES = 3  # the kernel's table changes while it is read: a line may be missed
_MAPPED = "0000000000000000FFFF0000"  # ::ffff:0:0/96 as the kernel prints it


class Peer:
    """The other end of a transport. By duplicates: a loop's own socket objects cannot do all."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._uid: int | None = None

    @property
    def fileno(self) -> int:
        """The descriptor of this end."""
        return int(self._transport.get_extra_info("socket").fileno())

    @property
    def over_tcp(self) -> bool:
        """It came to an address, which browsers reach as well, and not to a Unix socket."""
        return bool(self._transport.get_extra_info("socket").family == socket.AF_INET)

    @property
    def uid(self) -> int:
        """Its user, looked up once; RequestError 403 when that cannot be told."""
        if self._uid is None:
            try:
                with self._duplicate() as sock:
                    self._uid = peer_uid(sock)
            except OSError as error:  # it has gone
                raise _unknown() from error
        return self._uid

    @property
    def hung_up(self) -> bool:
        """It has closed the connection. One that only ended its own sending may wait for its answer; over TCP the two
        look alike until it is sent something."""
        if self._transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self.fileno, 0)
        return bool(poll.poll(0))

    def shut_down(self) -> None:
        """End the connection for everyone who holds its socket."""
        with contextlib.suppress(OSError), self._duplicate() as sock:
            sock.shutdown(socket.SHUT_RDWR)

    def _duplicate(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.fileno))


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket (SO_PEERCRED) or of a loopback TCP connection (/proc/self/net/tcp).

    Raises RequestError 403 when that cannot be told, OSError when it has gone.
    """
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return _distinct(int(struct.unpack("3i", credentials)[1]))
    theirs, ours = sock.getpeername(), sock.getsockname()
    for _ in range(_TRIES):
        for table in TABLES:
            uid = find_uid(table.read_text() if table.exists() else "", theirs, ours)
            if uid is not None:
                return _distinct(uid)
    raise _unknown()


def find_uid(table: str, local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The owner of the established connection ``local`` → ``remote`` (IPv4) in a table of /proc/net; None: not there.

    Format: https://www.kernel.org/doc/Documentation/networking/proc_net_tcp.txt
    """
    for prefix in ("", _MAPPED):
        wanted = f" {_hex(local, prefix)} {_hex(remote, prefix)} {_ESTABLISHED} "
        _, found, rest = table.partition(wanted)
        if found:
            return int(rest.split(maxsplit=4)[3])
    return None


def _hex(address: tuple[str, int], prefix: str) -> str:
    host = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{prefix}{host:08X}:{address[1]:04X}"


def _distinct(uid: int) -> int:
    """In a user namespace of its own, a process sees every user that it does not know as this one."""
    if uid == int(OVERFLOW.read_text()):
        raise RequestError(
            403,
            "the service sees its clients as one and the same user; shared memory needs PrivateUsers=no in its unit "
            "(overlaid-shared-memory.conf)",
        )
    return uid


def _unknown() -> RequestError:
    return RequestError(403, "whose connection this is cannot be told; use the Unix socket for shared memory")
