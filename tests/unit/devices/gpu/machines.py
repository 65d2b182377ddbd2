"""What the kernel shows of GPUs (tests/data/gpus) unpacked into folders."""

from __future__ import annotations

import re
from pathlib import Path

DATA = Path(__file__).parents[3] / "data/gpus"
LINE = re.compile(r"(.*?/[^/:]+):([^/]*)")  # paths have colons as well: PCI addresses


def unpack(machine: str, into: Path) -> Path:
    """``into``, with the machine's files in it."""
    for line in (DATA / f"{machine}.txt").read_text().splitlines():
        path, arrow, target = line.partition(" -> ")
        if arrow:
            link = into / path
            link.parent.mkdir(parents=True, exist_ok=True)
            (link.parent / target).resolve().mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
            continue
        found = LINE.fullmatch(line)
        assert found, line
        file = into / found[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as opened:
            opened.write(found[2].replace("\\0", "\0") + "\n")
    return into
