"""How much of a version a node has to fetch that runs the one before."""

from __future__ import annotations

from dataclasses import dataclass

from agent.package.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Delta:
    """``new_bytes`` of the ``size`` bytes of all files are not in version ``against``; besides them the manifest is
    sent. A node fetches less when it cannot run every variant."""

    against: str
    new_bytes: int
    size: int
    manifest_bytes: int

    def __str__(self) -> str:
        new, size, manifest = map(short_bytes, (self.new_bytes, self.size, self.manifest_bytes))
        return f"{new} of {size} are new against {self.against}, and a manifest of {manifest}"


def delta(old: Manifest, new: Manifest, manifest_bytes: int) -> Delta:
    """Of two versions of a model; ``manifest_bytes`` of the new one."""
    known = {block.sha256 for file in old.files.values() for block in file.blocks}
    blocks = {block.sha256: block.size for file in new.files.values() for block in file.blocks}
    fresh = sum(size for sha, size in blocks.items() if sha not in known)
    return Delta(old.version, fresh, sum(file.size for file in new.files.values()), manifest_bytes)


def short_bytes(nbytes: int) -> str:
    """``92 KB``, ``1.2 MB``."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.0f} KB"
