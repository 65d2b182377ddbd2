"""The page that steers ``shim.c``: what happens at which call, and where the clock is."""

from __future__ import annotations

import enum
import errno
import mmap
import os
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "OVERLAID_TEST_FAULTS"
NUMBERS = struct.Struct("=qqqiiii")  # clock_ns, left, seen, pid, mode, error, struck
STRINGS = struct.Struct("=256s64s")
STOPS_AT = NUMBERS.size + STRINGS.size  # of the launcher, not of the shim: a bit for each phase to stop in
SIZE = STOPS_AT + 4
_FIELDS = ("clock_ns", "left", "seen", "pid", "mode", "error", "struck")


class Mode(enum.IntEnum):
    COUNT = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2  # of a write, after its first half
    FAIL_ONCE = 3
    FAIL_ALL = 4
    HANG = 5  # until the mode is another


def build(folder: Path) -> Path:
    """The shim as a library."""
    library = folder / "shim.so"
    command = ["g++", "-x", "c", "-O1", "-shared", "-fPIC", "-Wall", str(SOURCE), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


class Page:
    """The shared page; ``folder`` is where files must lie to be struck."""

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path = path
        if folder is not None:
            path.write_bytes(
                NUMBERS.pack(0, 0, 0, 0, 0, 0, 0) + STRINGS.pack(str(folder).encode(), b"") + bytes(4)
            )
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)

    def environment(self, library: Path) -> dict[str, str]:
        """What to start processes with."""
        return {"LD_PRELOAD": str(library), VARIABLE: str(self.path)}

    def strike(self, mode: Mode, at: int = 1, error: int = errno.EIO, only: str = "") -> None:
        """From now on, at the ``at``-th call on a file whose path holds ``only``."""
        self._put("mode", Mode.COUNT)
        self._map[NUMBERS.size + 256 : STOPS_AT] = only.encode().ljust(64, b"\0")
        self._put("left", at)
        self._put("error", error)
        self._put("struck", 0)
        self._put("mode", mode)

    def heal(self) -> None:
        """Calls do what they should."""
        self.strike(Mode.COUNT)

    @property
    def struck(self) -> bool:
        return bool(self._get("struck"))

    @property
    def calls(self) -> int:
        """That changed files so far."""
        return self._get("seen")

    def concern(self, pid: int) -> None:
        """The session of this process, its leader, from now on."""
        self._put("pid", pid)

    def set_clock(self, off_s: float) -> None:
        self._put("clock_ns", int(off_s * 1e9))

    def stop_in(self, *phases: int) -> None:
        """The daemon waits for us as soon as it has journalled one of these phases, once each."""
        struct.pack_into("=I", self._map, STOPS_AT, sum(1 << phase for phase in phases))

    def stops_in(self, phase: int) -> bool:
        """Asked by the daemon: true once."""
        (bits,) = struct.unpack_from("=I", self._map, STOPS_AT)
        struct.pack_into("=I", self._map, STOPS_AT, bits & ~(1 << phase))
        return bool(bits >> phase & 1)

    def close(self) -> None:
        self._map.close()

    def _get(self, field: str) -> int:
        return int(NUMBERS.unpack_from(self._map)[_FIELDS.index(field)])

    def _put(self, field: str, value: int) -> None:
        index = _FIELDS.index(field)
        offset = index * 8 if index < 3 else 24 + (index - 3) * 4
        struct.pack_into("=q" if index < 3 else "=i", self._map, offset, value)


def page_of_this_process() -> Page:
    return Page(Path(os.environ[VARIABLE]))
