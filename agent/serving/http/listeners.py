"""Listening sockets, bound by the daemon."""

from __future__ import annotations

import socket
from pathlib import Path

from agent.errors import WorkerError

BACKLOG = 1024  # who connects while a worker is started again, or a crowd does, waits here


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket, mode 0660, in place of what a former run left there; WorkerError when impossible."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise WorkerError(
            f"cannot make the socket {path}: {error}; paths.runtime must be writable and short (a socket's path has at "
            f"most 107 bytes)"
        ) from error
    listener.setblocking(False)
    return listener


def listen_tcp(address: str) -> socket.socket:
    """A listening socket on ``HOST:PORT`` (IPv4); WorkerError when it is taken."""
    host, _, port = address.rpartition(":")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise WorkerError(f"cannot listen on {address}: {error}; choose another serving.http") from error
    listener.setblocking(False)
    return listener
