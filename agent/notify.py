"""Tell systemd how the daemon is: the ``sd_notify`` datagrams of ``Type=notify`` and ``WatchdogSec=``.

Format and variables: sd_notify(3) and sd_watchdog_enabled(3). Outside systemd every call does nothing and answers
False; none of them raises, since a lost status line must never stop the daemon.
"""

from __future__ import annotations

import os
import socket


def ready(status: str) -> bool:
    """Start-up is complete: models can be asked. ``status`` is the line that ``systemctl status`` shows."""
    return _send("READY=1", f"STATUS={_one_line(status)}")


def status(text: str) -> bool:
    """Replace the status line, e.g. ``2 models serving, broker connected``."""
    return _send(f"STATUS={_one_line(text)}")


def watchdog() -> bool:
    """Still alive; call it every ``watchdog_interval()`` seconds."""
    return _send("WATCHDOG=1")


def stopping(status: str) -> bool:
    """Shutting down in order."""
    return _send("STOPPING=1", f"STATUS={_one_line(status)}")


def watchdog_interval() -> float | None:
    """Seconds between two ``watchdog()`` calls, half of systemd's limit; None when this process has no watchdog."""
    limit, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not (limit.isascii() and limit.isdigit()) or int(limit) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(limit) / 2 / 1e6


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _send(*assignments: str) -> bool:
    """One datagram to $NOTIFY_SOCKET: a path, or ``@name`` for an abstract socket. True when it was handed over."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a stuck manager must not stall the event loop
            sock.sendto("\n".join(assignments).encode(errors="replace"), address)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
    return True
