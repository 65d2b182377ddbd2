"""Which folders the FPGA is configured from. Whoever writes a bitstream has all of the board's memory."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import OverlayLoadError, one_line

MAX_FILES = 256


@dataclass(frozen=True, slots=True)
class Place:
    """What an overlay is loaded from: ``overlay`` is its id, ``files`` tell whether the folder is still the same."""

    folder: Path
    overlay: str
    files: tuple[tuple[str, int, int], ...]


def files_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of an overlay's files. OverlayLoadError when they cannot be read."""
    try:
        found = [path for inner in _inner(folder) for path in inner.iterdir()]
        return tuple(sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in found))
    except OSError as error:
        raise OverlayLoadError(f"{folder} cannot be used: {one_line(error)}") from error


def check_folder(folder: str, roots: Sequence[Path], owners: Collection[int]) -> Path:
    """The real path of an overlay's folder below one of ``roots``.

    Raises OverlayLoadError unless it, its files and what lies between it and the root belong to one of ``owners`` (user
    ids), nobody else may write them, and none of them is a symbolic link.
    """
    try:
        path = Path(folder)
        real = path.resolve(strict=True)
        if not path.is_absolute() or ".." in path.parts:
            raise OverlayLoadError(f"{folder!r} is no absolute path; overlays are loaded by theirs")
        root = next((root for root in map(Path.resolve, roots) if real.is_relative_to(root)), None)
        if root is None:
            allowed = ", ".join(map(str, roots))
            raise OverlayLoadError(
                f"{folder} is not below {allowed}, the folders that overlays are loaded from"
            )
        entries = list(itertools.islice(_entries(root, real), MAX_FILES + 1))
        if len(entries) > MAX_FILES:
            raise OverlayLoadError(
                f"{folder} holds more than {MAX_FILES} files; an overlay has fewer than ten"
            )
        for entry in entries:
            _check_entry(entry, owners)
    except (OSError, ValueError, RuntimeError) as error:  # missing, a zero byte, a loop of links
        raise OverlayLoadError(f"{folder!r} cannot be used: {one_line(error)}") from error
    return real


def _entries(root: Path, folder: Path) -> Iterator[Path]:
    for part in (folder, *folder.parents):
        yield part
        if part == root:
            break
    for inner in _inner(folder):
        yield from inner.iterdir()


def _inner(folder: Path) -> Iterator[Path]:
    return (inner for inner in (folder, folder / "release") if inner.is_dir())


def _check_entry(path: Path, owners: Collection[int]) -> None:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise OverlayLoadError(f"{path} is a symbolic link; put the file itself there")
    if info.st_uid not in owners:
        raise OverlayLoadError(
            f"{path} belongs to user {info.st_uid}; overlays are loaded from what user "
            f"{' or '.join(map(str, sorted(owners)))} owns"
        )
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OverlayLoadError(f"others than its owner may write {path}: chmod go-w {os.fspath(path)}")
