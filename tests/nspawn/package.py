"""The Debian packages under test, as ``make deb`` leaves them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.nspawn.machine import Machine
from tests.nspawn.rootfs import native
from tests.system.stage import ROOT

# Others than those of this tree, a release's say, are tested as well.
FOLDER = Path(os.environ.get("OVERLAID_DEBS") or ROOT / "build" / "deb")
PROJECT = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
assert PROJECT is not None
VERSION = PROJECT[1]
NEXT = f"{VERSION}+next"  # the same tree under a higher version


def deb(version: str = VERSION, architecture: str = "") -> Path:
    return FOLDER / f"overlaid_{version}_{architecture or native()}.deb"


def put(machine: Machine, package: Path) -> str:
    """Copy it in; its path inside. In /run, which no boot keeps."""
    target = f"/run/{package.name}"
    (machine.inside / target.lstrip("/")).write_bytes(package.read_bytes())
    return target


def files(root: Path) -> dict[str, str]:
    """Every file of a tree, below what packages and services may write to, and what it is."""
    found: dict[str, str] = {}
    for top in ("etc", "opt", "usr", "var", "root", "home", "srv"):
        for path in (root / top).rglob("*"):
            kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
            found[f"/{path.relative_to(root)}"] = kind
    return found


if __name__ == "__main__":
    print(NEXT)
