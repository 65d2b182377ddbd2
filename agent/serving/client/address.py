"""Where the service is."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.serving.client.errors import BadRequest, ServiceUnreachable

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """A Unix socket's path, or (host, port). ``memory``: the socket over which shared memory is registered."""

    where: str | tuple[str, int]
    memory: Path | None

    @classmethod
    def parse(cls, text: str | Path) -> Address:
        """``/run/overlaid/http.sock``, ``/run/overlaid/models/NAME.sock`` or ``http://127.0.0.1:8000``.

        Raises BadRequest.
        """
        if "://" not in str(text):
            path = Path(text).absolute()
            runtime = path.parent.parent if path.parent.name == "models" else path.parent
            return cls(str(path), runtime / "shm.sock")
        try:
            parts = urlsplit(str(text))
            if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
                raise ValueError
            return cls((parts.hostname, parts.port or 80), None)
        except ValueError:
            raise BadRequest(f"{text} is no address; give a socket's path or http://127.0.0.1:8000") from None

    def connect(self) -> socket.socket:
        """A connected, blocking socket; ServiceUnreachable when nobody answers."""
        try:
            if isinstance(self.where, tuple):
                sock = socket.create_connection(self.where, CONNECT_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                sock = connect_unix(self.where, socket.SOCK_STREAM)
        except OSError as error:
            raise ServiceUnreachable(
                f"nobody answers at {self.where}: {error}; is the service running (overlaid status), and may this user "
                "use its socket (group overlaid)?"
            ) from error
        sock.settimeout(None)
        return sock


def connect_unix(path: str, kind: socket.SocketKind) -> socket.socket:
    """A connected socket with a time-out; OSError."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def ended(sock: socket.socket) -> bool:
    """True when the other end has closed; nothing else may come between two requests."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
