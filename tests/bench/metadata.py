"""What it costs a node to ask a TUF repository what may be installed, without the wire.

A repository with 200 packages of one team; the answers come from its folder at once. ``metadata_first_kb``,
``metadata_first_files``: what a node that has seen nothing yet asks for; ``metadata_next_*``: after one more package
was published; ``metadata_same_*``: when nothing is new. ``metadata_s``: from the question to the answer, the helper
process's start and imports included, median of 7 with one more package each; ``metadata_helper_mb``: that process's
peak (VmHWM) when it asks for its last file, the most of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.fleet.home import Home
from agent.fleet.repo import Repo
from agent.fleet.repo.store import RepoFiles
from agent.package.tuf.parent import HelperVerifier
from tests.bench.footprint import megabytes
from tests.bench.harness import Figure, main
from tests.system.stage import children_of

PACKAGES = 200
RUNS = 7


@dataclass(slots=True)
class _Folder:
    """A ``MetadataSource`` that counts."""

    files: RepoFiles
    keep_newer: bool = False
    asked: int = 0
    sent: int = 0
    peak_mb: float = 0.0

    async def metadata(self, name: str, limit: int) -> bytes | None:
        data = self.files.read(name)
        self.asked += 1
        self.sent += len(data or b"")
        for child in children_of(os.getpid()):
            self.peak_mb = max(self.peak_mb, megabytes(Path(f"/proc/{child}/status"), "VmHWM"))
        return data


class _Bench:
    """An operator's repository and a node's verifier."""

    def __init__(self, folder: Path) -> None:
        self._home = Home(folder / "fleet")
        self._repo = Repo(self._home)
        self._repo.init()
        self._published = 0
        given = folder / "root.json"
        given.write_bytes((self._home.repo / "root.json").read_bytes())
        self._verifier = HelperVerifier(given, folder / "seen", time.time)

    def publish(self) -> None:
        """One more package; its manifest is any bytes."""
        self._published += 1
        self._repo.add("model", self._version, self._manifest)

    def ask(self) -> tuple[_Folder, float]:
        """For the newest package: what was asked for, seconds."""
        source, digest = _Folder(RepoFiles(self._home.repo)), hashlib.sha256(self._manifest).hexdigest()
        began = time.perf_counter()
        asyncio.run(self._verifier.check("model", self._version, digest, source))
        return source, time.perf_counter() - began

    @property
    def _version(self) -> str:
        return f"1.0.{self._published}"

    @property
    def _manifest(self) -> bytes:
        return f"manifest {self._published}".encode()


def measure() -> Mapping[str, Figure]:
    with tempfile.TemporaryDirectory(prefix="overlaid-bench-") as folder:
        bench = _Bench(Path(folder))
        for _ in range(PACKAGES):
            bench.publish()
        first, _ = bench.ask()
        seconds, peaks = [], [first.peak_mb]
        for _ in range(RUNS):
            bench.publish()
            following, each = bench.ask()
            seconds.append(each)
            peaks.append(following.peak_mb)
        same, _ = bench.ask()
    figures = {
        "metadata_s": Figure(statistics.median(seconds), "s"),
        "metadata_helper_mb": Figure(max(peaks), "MB"),
    }
    for name, source in (("first", first), ("next", following), ("same", same)):
        figures[f"metadata_{name}_files"] = Figure(source.asked, "files")
        figures[f"metadata_{name}_kb"] = Figure(source.sent / 1e3, "kB")
    return figures


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
