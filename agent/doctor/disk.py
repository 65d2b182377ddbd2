"""Whether there is space where the node writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.finding import Finding, ok, problem, warning
from agent.doctor.subject import Subject
from agent.package.store import FREE_MARGIN_BYTES

AREA = "disk"
TMP = Path("/tmp")  # noqa: S108
MIB = 1 << 20
LITTLE_BYTES = 256 * MIB  # less holds no larger model
TMP_LITTLE_BYTES = 32 * MIB
FEW_INODES = 1000


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of ``path``. ``inodes``: free ones, None where it does not count them."""

    path: Path
    mount: Path
    total: int
    free: int
    inodes: int | None = None
    read_only: bool = False


def look(subject: Subject) -> list[Disk]:
    """Of the state folder, or what is there of its path, and of /tmp."""
    return [disk for path in (subject.folders.state, TMP) if (disk := _disk(path)) is not None]


def _disk(path: Path) -> Disk | None:
    there = next((folder for folder in (path, *path.parents) if os.access(folder, os.F_OK)), None)
    if there is None:
        return None
    try:
        found = os.statvfs(there)
        mount = there.resolve()
        while not mount.is_mount():
            mount = mount.parent
    except OSError:
        return None
    return Disk(
        path, mount, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize,
        found.f_favail if found.f_files else None, bool(found.f_flag & os.ST_RDONLY),
    )  # fmt: skip


def judge(disks: list[Disk]) -> list[Finding]:
    return [finding for disk in disks for finding in _of_disk(disk)]


def _of_disk(disk: Disk) -> Iterator[Finding]:
    state = disk.path != TMP
    large = f"sudo du -xh --max-depth=3 {disk.mount} | sort -h | tail -20"
    size = f"{_size(disk.free)} of {_size(disk.total)} are free on {disk.mount}"
    little = LITTLE_BYTES if state else TMP_LITTLE_BYTES
    if disk.read_only:
        yield problem(
            AREA, f"{disk.path} is read-only", "nothing new can be deployed; a disk with errors becomes read-only",
            f"sudo dmesg | grep -iE 'error|remount' && sudo mount -o remount,rw {disk.mount}",
        )  # fmt: skip
    elif disk.free < FREE_MARGIN_BYTES:
        why = f"{size}; " + ("nothing more is downloaded or journalled" if state else "runtimes cannot start")
        yield problem(AREA, f"{disk.path} is full", why, f"{large}; sudo journalctl --vacuum-size=100M")
    elif disk.free < little:
        yield warning(
            AREA, f"{disk.path} is almost full", size, f"{large}; sudo journalctl --vacuum-size=100M"
        )
    elif disk.inodes is not None and disk.inodes < FEW_INODES:
        yield problem(
            AREA, f"{disk.path}: only {disk.inodes} more files can be made",
            f"{disk.mount} has few inodes left, though {_size(disk.free)} are free",
            f"sudo du -x --inodes --max-depth=3 {disk.mount} | sort -n | tail -20",
        )  # fmt: skip
    else:
        yield ok(AREA, f"{disk.path}: {size}")


def _size(nbytes: int) -> str:
    return f"{nbytes / MIB:.0f} MiB" if nbytes < 10 << 30 else f"{nbytes / (1 << 30):.0f} GiB"
