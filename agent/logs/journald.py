"""systemd's journal, written by its native protocol (sd_journal_send(3), systemd's "Native Journal Protocol").

One datagram an entry: ``NAME=value\\n``, or, for a value with line breaks, ``NAME\\n``, its length in 8 bytes
(little-endian), the value, ``\\n``. What no datagram takes goes as a sealed memfd, in the ancillary data of an empty
one.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.logs.fields import about_of, room_of

SOCKET = Path("/run/systemd/journal/socket")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)


def stderr_is_journal(environ: Mapping[str, str] = os.environ, descriptor: int = 2) -> bool:
    """Whether stderr is the stream that systemd connected to the journal: ``JOURNAL_STREAM``, systemd.exec(5)."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stderr = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(stderr.st_dev), str(stderr.st_ino))


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """One entry."""
    entry = bytearray()
    for name, value in fields:
        data = value.encode(errors="replace")
        if b"\n" in data:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            entry += name.encode() + b"=" + data + b"\n"
    return bytes(entry)


class JournalHandler(logging.Handler):
    """Sends records to the journal, each with what it is about. It never waits: what the journal does not take now is
    lost and counted, and the next line that gets through is followed by the count.

    ``state``: the daemon's folder, by which ``overlaid logs`` knows its lines from those of another daemon.
    """

    def __init__(self, identifier: str, state: Path | None, path: Path = SOCKET) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # or basicConfig sets one that repeats the fields
        self._path, self._lost = str(path), 0
        self._always = [("SYSLOG_IDENTIFIER", identifier)]
        if state is not None:
            self._always.append(("OVERLAID_STATE", str(state)))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Logging's own contract: raises nothing."""
        try:
            self._send(encode(self._fields(record)))
        except OSError:
            self._lost += 1
            return
        except Exception:
            self.handleError(record)
            return
        if self._lost:
            self._tell_lost()

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _tell_lost(self) -> None:
        text = f"{self._lost} lines before this one are lost: the journal did not take them"
        fields = [("MESSAGE", text), ("PRIORITY", "4"), ("OVERLAID_ROOM", "logs"), *self._always]
        try:
            self._send(encode(fields))
        except OSError:
            return
        self._lost = 0

    def _fields(self, record: logging.LogRecord) -> list[tuple[str, str]]:
        fields = [
            ("MESSAGE", self.format(record)),
            ("PRIORITY", str(priority(record.levelno))),
            ("CODE_FILE", record.pathname),
            ("CODE_LINE", str(record.lineno)),
            ("CODE_FUNC", record.funcName or ""),
            ("OVERLAID_ROOM", room_of(record)),
            *self._always,
        ]
        topic = about_of(record)
        for name, value in (
            ("MODEL", topic.model),
            ("DEPLOYMENT", topic.deployment),
            ("DEVICE", topic.device),
        ):
            if value is not None:
                fields.append((f"OVERLAID_{name}", str(value)))
        return fields

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._send_large(entry)

    def _send_large(self, entry: bytes) -> None:
        memory = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(memory)


def priority(level: int) -> int:
    """A level of ``logging`` as syslog's (syslog(3))."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7
