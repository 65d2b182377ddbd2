"""Arrays in memory that the model's worker maps as well: tensors that cross no socket.

Each is a memfd, sealed so that nobody can cut it while it is read, and registered over the service's ``shm.sock``. It
stays registered while this object is open; the service forgets it when the process ends, however that happens.
"""

from __future__ import annotations

import array
import fcntl
import json
import math
import mmap
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from agent.serving.client.address import connect_unix, ended
from agent.serving.client.errors import BadRequest, ServiceUnreachable, refusal
from agent.serving.client.requests import Array, Place

ANSWER_S = 30.0
MAX_ANSWER = 4096


class SharedArrays:
    """``path``: of ``shm.sock``, None where the address has none. May be used from several threads."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._turn = threading.Lock()
        self._process = os.getpid()
        self._files: dict[str, int] = {}
        self._starts: dict[str, tuple[int, int]] = {}  # first address, and the one behind the last
        self._whole: dict[int, tuple[str, Array]] = {}  # by id

    def make(self, shape: Sequence[int] | int, dtype: DTypeLike) -> Array:
        """Zeros. Raises BadRequest (shared memory is off, no room) and ServiceUnreachable."""
        kind = np.dtype(dtype)
        sizes = tuple(int(size) for size in np.atleast_1d(shape))
        size = math.prod(sizes) * kind.itemsize
        if kind.hasobject or min(sizes, default=1) < 1 or not 0 < size <= sys.maxsize:
            raise BadRequest(
                f"{kind} {shape} cannot lie in shared memory: numbers of a fixed size only, at least one"
            )
        name = f"client-{os.getpid()}-{secrets.token_hex(8)}"
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            made: Array = np.frombuffer(mmap.mmap(fd, size), kind).reshape(sizes)
            with self._turn:
                self._register(name, fd)
                self._files[name] = fd
        except BaseException:
            os.close(fd)
            raise
        first = made.__array_interface__["data"][0]
        self._starts = {
            **self._starts,
            name: (first, first + size),
        }  # another thread may just go through the old one
        self._whole[id(made)] = name, made
        return made

    def place(self, value: Any) -> Place | None:
        """Where an array lies, if all of it lies in one of these; views of them do as well."""
        if not self._whole:
            return None
        found = self._whole.get(id(value))
        if found is not None:
            return found[0], 0
        if not isinstance(value, np.ndarray):
            return None
        start = value.__array_interface__["data"][0]
        for name, (first, end) in self._starts.items():
            if first <= start and start + value.nbytes <= end:
                return name, start - first
        return None

    def renew(self) -> bool:
        """Register everything again when the service was started anew meanwhile; False when that is not so."""
        with self._turn:
            if not self._files or (self._sock is not None and not ended(self._sock)):
                return False
            self._hang_up()
            for name, fd in self._files.items():
                self._register(name, fd)
        return True

    def close(self) -> None:
        """Unregister all. The arrays stay, as the process's own memory."""
        with self._turn:
            self._hang_up()
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        self._starts.clear()
        self._whole.clear()

    def _register(self, name: str, fd: int) -> None:
        if self._process != os.getpid():  # after a fork the connection is the parent's
            self._hang_up()
            self._process = os.getpid()
        try:
            if self._sock is None:
                self._sock = self._connect()
            request = json.dumps({"op": "register", "name": name}).encode() + b"\n"
            self._sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            data = self._sock.recv(MAX_ANSWER)
        except OSError as error:
            self._hang_up()
            raise ServiceUnreachable(
                f"shared memory cannot be registered at {self._path}: {error}; is the service running, with "
                "serving.shared_memory = true?"
            ) from error
        if not data:
            self._hang_up()
            raise ServiceUnreachable(
                "the service ended, or has too many clients with shared memory; try again"
            )
        answer = json.loads(data)
        if "error" in answer:
            raise refusal(int(answer["status"]), str(answer["error"]), 1.0)

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connect(self) -> socket.socket:
        if self._path is None:
            raise BadRequest(
                "shared memory needs the address of a Unix socket, such as /run/overlaid/http.sock"
            )
        sock = connect_unix(str(self._path), socket.SOCK_SEQPACKET)
        sock.settimeout(ANSWER_S)
        return sock
