"""Reading the small text files of sysfs, with what to do when they cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

from agent.errors import MeterError

MAX_TEXT = 4096  # a sysfs attribute is at most a page
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
    except PermissionError:
        raise not_permitted(path) from None
    except OSError as error:
        raise MeterError(f"{path}: {error.strerror or error}") from None


def optional(path: Path) -> str:
    """The same, "" when it cannot be read."""
    try:
        return text(path)
    except MeterError:
        return ""


def number(path: Path) -> int:
    """The attribute as an integer. MeterError when it is none."""
    found = text(path)
    if not re.fullmatch(r"-?[0-9]{1,20}", found):
        raise MeterError(f"{path}: {found[:40]!r} is not a number")
    return int(found)


def not_permitted(path: Path) -> MeterError:
    """The error of a file that root alone may read, with the udev rule that mends it."""
    kind = next((kind for kind in UDEV_RULES if kind in (path.name, *(p.name for p in path.parents))), None)
    rule = f"; udev rule: {UDEV_RULES[kind]}" if kind else ""
    return MeterError(f"{path}: readable by root only{rule}")
