"""Who is at the other end of a connection."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

from agent.serving.http.messages import RequestError

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"  # a socket that its owner has closed is listed as root's
_TRIES = 3  # the kernel's table changes while it is read: a line may be missed
_MAPPED = "0000000000000000FFFF0000"  # ::ffff:0:0/96 as the kernel prints it


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket (SO_PEERCRED) or of a loopback TCP connection (/proc/net/tcp).

    Raises RequestError 403 when that cannot be told.
    """
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    try:
        theirs, ours = sock.getpeername(), sock.getsockname()
    except OSError as error:
        raise _unknown() from error
    for _ in range(_TRIES):
        for table in TABLES:
            uid = find_uid(table.read_text() if table.exists() else "", theirs, ours)
            if uid is not None:
                return uid
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


def _unknown() -> RequestError:
    return RequestError(403, "whose connection this is cannot be told; use the Unix socket for shared memory")
