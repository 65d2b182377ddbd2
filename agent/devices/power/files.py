"""Reading the small text files of sysfs, with what to do when they cannot be read."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agent.errors import MeterError

MAX_TEXT = 4096  # a sysfs attribute is at most a page
MAX_DIGITS = 20
# The first two are in systemd/60-overlaid.rules. "hwmon" is not, because the kernel lets everybody read it, nor "vcio",
# because whoever has that has the machine.
UDEV_RULES = {
    "powercap": 'ACTION!="remove", SUBSYSTEM=="powercap", TEST=="energy_uj", '
    'RUN+="/bin/chgrp overlaid /sys%p/energy_uj", RUN+="/bin/chmod 0440 /sys%p/energy_uj"',
    "vcio_gencmd": 'KERNEL=="vcio_gencmd", GROUP="video", MODE="0660"',
    "hwmon": 'ACTION!="remove", SUBSYSTEM=="hwmon", ATTR{name}=="ina*", '
    "RUN+=\"/bin/sh -c '/bin/chmod a+r /sys%p/*_input'\"",
    "vcio": 'KERNEL=="vcio", GROUP="video", MODE="0660"',
}


def text(path: Path) -> str:
    """The attribute without white space around it. MeterError when it cannot be read."""
    try:
        with path.open(errors="replace") as file:
            return file.read(MAX_TEXT).strip()
    except OSError as error:
        raise not_read(path, error) from None


def optional(path: Path) -> str:
    """The same, "" when it cannot be read."""
    try:
        return text(path)
    except MeterError:
        return ""


class Number:
    """An attribute that is an integer and is read often: its file stays open, which costs a tenth of opening it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def read(self) -> int:
        """MeterError when it cannot be read or is no number."""
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            found = os.pread(self._file, MAX_DIGITS + 2, 0)
        except OSError as error:
            self._close()  # of a device that went away; it may come back under the same name
            raise not_read(self.path, error) from None
        if not re.fullmatch(rb"-?[0-9]{1,20}\s?", found):
            raise MeterError(f"{self.path}: {found.decode(errors='replace').strip()!r} is not a number")
        return int(found)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self._close()


def not_read(path: Path, error: OSError) -> MeterError:
    """Why not; when only root may, with the udev rule that mends it."""
    return (
        not_permitted(path) if isinstance(error, PermissionError) else MeterError(f"{path}: {error.strerror}")
    )


def not_permitted(path: Path) -> MeterError:
    """The error of a file that root alone may read, with the udev rule that mends it."""
    kind = next((kind for kind in UDEV_RULES if kind in (path.name, *(p.name for p in path.parents))), None)
    rule = f"; udev rule: {UDEV_RULES[kind]}" if kind else ""
    return MeterError(f"{path}: readable by root only{rule}")
