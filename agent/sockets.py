"""A Unix socket at a path of its own: what a killed process left is replaced, what somebody answers on is not."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

PROBE_S = 2.0


class Occupied(Exception):
    """Why the path cannot be taken, and what to do."""


def listen_alone(path: Path, kind: socket.SocketKind, backlog: int, who: str, unit: str) -> socket.socket:
    """A listening socket that owner and group may use. ``who`` and ``unit`` name what may answer there already.

    Raises OSError and Occupied.
    """
    listening = socket.socket(socket.AF_UNIX, kind)
    try:
        if _answered(path, kind):
            raise Occupied(f"another {who} answers on {path}; stop it first: systemctl stop {unit}")
        listening.bind(str(path))
        path.chmod(0o660)  # before listen: nobody can connect earlier
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening


def _answered(path: Path, kind: socket.SocketKind) -> bool:
    """Whether somebody listens there; the socket of a killed process is removed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise Occupied(f"{path} is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return False
        except TimeoutError:
            pass
    return True
