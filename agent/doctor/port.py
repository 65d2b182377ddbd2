"""Whether the HTTP port is free for the daemon, or its own. From the kernel's table: nobody is connected to.

Format: Documentation/networking/proc_net_tcp.rst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.finding import Finding, ok, problem
from agent.doctor.service import Daemon
from agent.doctor.subject import Subject

AREA = "http"
LISTEN = "0A"
# IPv4 addresses as the table has them, in the machine's byte order; IPv6's that take IPv4 as well.
LOOPBACK = ("0100007F", "7F000001")
ANY = ("00000000", "0" * 32)


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens on a port: its user, its process where it may be known."""

    uid: int
    inode: int
    pid: int | None = None
    name: str = ""


def look(port: int, proc: Path = Path("/proc")) -> Listener | None:
    """Who listens there on 127.0.0.1 or on all addresses."""
    for table in ("net/tcp", "net/tcp6"):
        try:
            found = find(proc.joinpath(table).read_text(), port)
        except OSError:
            continue
        if found is not None:
            return _named(found, proc)
    return None


def find(table: str, port: int) -> Listener | None:
    """In the text of /proc/net/tcp or tcp6. Pure."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTEN:
            continue
        address, _, number = fields[1].partition(":")
        if address in (*LOOPBACK, *ANY) and int(number, 16) == port:
            return Listener(int(fields[7]), int(fields[9]))
    return None


def _named(listener: Listener, proc: Path) -> Listener:
    """With its process, when this user may see whose socket it is."""
    wanted = f"socket:[{listener.inode}]"
    for folder in proc.iterdir():
        if not re.fullmatch(r"[0-9]+", folder.name):
            continue
        try:
            if any(str(fd.readlink()) == wanted for fd in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text(errors="replace").strip()
                return Listener(listener.uid, listener.inode, int(folder.name), name)
        except OSError:
            continue
    return listener


def judge(port: int, listener: Listener | None, daemon: Daemon, subject: Subject) -> list[Finding]:
    if listener is None:
        return [ok(AREA, f"port {port} is free")]
    if _is_ours(listener, daemon, subject):
        return [ok(AREA, f"the daemon listens on port {port}")]
    who = f"{listener.name} (process {listener.pid})" if listener.pid else f"a process of uid {listener.uid}"
    free = subject.edit("serving", "http", f'http = "127.0.0.1:{port + 1 if port < 65535 else 8000}"')
    return [
        problem(
            AREA, f"port {port} is taken by {who}", "the daemon does not start: it cannot listen on serving.http",
            f"sudo ss -ltnp 'sport = :{port}' and end that; or {free}",
        )
    ]  # fmt: skip


def _is_ours(listener: Listener, daemon: Daemon, subject: Subject) -> bool:
    if daemon.state == "down":
        return False
    pid = daemon.snapshot.get("pid")  # none of a daemon that does not tell
    if pid is not None and listener.pid is not None:
        return bool(listener.pid == pid)
    by_name = pid is None and listener.name == "overlaid"
    return by_name or (subject.user is not None and listener.uid == subject.user.uid)
