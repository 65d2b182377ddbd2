"""What native code writes to this process's stdout and stderr, kept for whoever called it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

MOST_BYTES = 65536

_turn = threading.RLock()  # there is one stderr
_libc = ctypes.CDLL(None)


class NativeLog:
    """``text``: what was written, its last 64 KiB; known once the ``with`` is over."""

    def __init__(self) -> None:
        self.text = ""

    def forward(self, lines: list[str]) -> None:
        """Write lines to the real stderr, for people to see."""
        if lines:
            with contextlib.suppress(OSError):
                os.write(2, "".join(f"{line}\n" for line in lines).encode())


@contextlib.contextmanager
def captured() -> Iterator[NativeLog]:
    """Descriptors 1 and 2 go to memory meanwhile, for other threads too. One thread at a time.

    What is written by a process that ends inside is lost.
    """
    log = NativeLog()
    with _turn:
        memory, before = os.memfd_create("log"), (os.dup(1), os.dup(2))
        os.dup2(memory, 1)
        os.dup2(memory, 2)
        try:
            yield log
        finally:
            _libc.fflush(None)
            for number, kept in enumerate(before, start=1):
                os.dup2(kept, number)
                os.close(kept)
            size = os.fstat(memory).st_size
            if size:
                data = os.pread(memory, MOST_BYTES, max(0, size - MOST_BYTES))
                log.text = data.decode(errors="replace")
            os.close(memory)
