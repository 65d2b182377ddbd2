"""A machine's disk: an ext4 of its own over a Debian root that stays as it is. So a power cut loses what a power cut
loses."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

SIZE = 3 << 30  # sparse
# linux/fs.h, ext4: as if the disk were gone. What was not synced is lost; the next mount replays the journal.
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Disk:
    """``root`` is the tree while mounted: what was written to the image, above ``base``."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.image = folder / "disk.img"
        self.root = folder / "root"
        self._base = base
        self._disk = folder / "disk"
        for path in (folder, self.root, self._disk):
            path.mkdir(parents=True, exist_ok=True)

    def format(self) -> None:
        """An empty disk: the tree is the base."""
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        _do("mkfs.ext4", "-q", "-F", str(self.image))

    def twin(self, folder: Path) -> Disk:
        """Another one with the same contents; this one must not be mounted."""
        other = Disk(folder, self._base)
        _do("cp", "--sparse=always", "--reflink=auto", str(self.image), str(other.image))
        return other

    def mount(self) -> None:
        """As a boot does: mended first."""
        _do("e2fsck", "-p", str(self.image), good=(0, 1))
        _do("mount", "-o", "loop,errors=remount-ro", str(self.image), str(self._disk))
        upper, work = self._disk / "upper", self._disk / "work"
        upper.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        layers = f"lowerdir={self._base},upperdir={upper},workdir={work}"
        _do("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))

    def unmount(self, *how: str) -> None:
        """Idempotent."""
        for path in (self.root, self._disk):
            if path.is_mount():
                _do("umount", *how, str(path))

    def lose_power(self) -> None:
        """Nothing reaches the image from now on, and what had not yet is lost. Then unmount it."""
        handle = os.open(self._disk, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(handle)

    def fail(self) -> None:
        """What a worn-out card does: the kernel finds an error and lets nobody write any more, until the next mount."""
        device = Path(_do("findmnt", "--noheadings", "--output", "SOURCE", str(self._disk)).strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def delete(self) -> None:
        self.unmount("--lazy")  # whoever failed may still have a file open
        shutil.rmtree(self.folder)


def _do(*command: str, good: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode not in good:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
