"""Sysfs of boards (tests/data/sysfs) unpacked into folders, and trees made by hand."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.devices.power.polled import PolledMeter
from agent.hal import PowerMeter

DATA = Path(__file__).parents[3] / "data/sysfs"
LINE = re.compile(r"(.*?/[^/:]+):([^/]*)")  # paths have colons as well: intel-rapl:0
RANGE_UJ = 262_143_328_850  # as Intel's laptops show


class Clock:
    def __init__(self) -> None:
        self.time = 50.0

    def __call__(self) -> float:
        return self.time


def unpack(board: str, into: Path) -> Path:
    """``into``, with the board's files in it."""
    for line in (DATA / f"{board}.txt").read_text().splitlines():
        path, arrow, target = line.partition(" -> ")
        if arrow:
            link = into / path
            (link.parent / target).mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
            continue
        found = LINE.fullmatch(line)
        assert found, line
        (into / found[1]).parent.mkdir(parents=True, exist_ok=True)
        (into / found[1]).write_text(found[2].replace("\\0", "\0") + "\n")
    return into


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    return folder


def rapl(sysfs: Path, zone: str = "intel-rapl:0", name: str = "package-0", energy_uj: object = 1000) -> Path:
    folder = sysfs / "class/powercap" / zone
    return write(folder, name=name, energy_uj=energy_uj, max_energy_range_uj=RANGE_UJ)


def hwmon(sysfs: Path, number: int, **files: object) -> Path:
    return write(sysfs / "class/hwmon" / f"hwmon{number}", **files)


def poll(meters: Iterable[PowerMeter]) -> None:
    """What the thread does."""
    for meter in meters:
        if isinstance(meter, PolledMeter):
            meter.poll()


def joules(meters: Iterable[PowerMeter], clock: Clock, seconds: float = 0.0) -> dict[str, float]:
    """By rail, after so many seconds in steps of at most 0.1 s."""
    meters = list(meters)
    for meter in meters:
        meter.joules()
    end = clock.time + seconds
    while clock.time < end:
        clock.time = min(clock.time + 0.1, end)
        poll(meters)
    return {meter.rail: meter.joules() for meter in meters}


def deny(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let nobody open ``path``, not even root."""
    real = os.open

    def denied(opened: Path, *args: int) -> int:
        if opened == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(opened, *args)

    monkeypatch.setattr(os, "open", denied)


def lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sensor goes away, as sysfs tells those who have its file open."""

    def lost(file: int, size: int, offset: int) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(os, "pread", lost)
