"""What an idle daemon weighs, and how fast ``overlaid status`` answers.

``daemon_rss_mb``, ``daemon_pss_mb``: VmRSS and proportional set size of an ``overlaid run`` that is connected to a
broker and has no models, after it settled. ``status_ms``: wall time of ``overlaid status``, interpreter start
included, median of 15.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench.harness import Figure, main
from tests.system.stage import OVERLAID, Node, stage, wait_until

SETTLE_S = 5.0
RUNS = 15


def measure() -> Mapping[str, Figure]:
    with tempfile.TemporaryDirectory(prefix="overlaid-bench-") as folder, stage(Path(folder)) as it:
        node = it.node("n1")
        node.start()
        wait_until("the broker", lambda: (node.status() or {}).get("broker_connected"))
        time.sleep(SETTLE_S)
        assert node.process is not None
        proc = Path(f"/proc/{node.process.pid}")
        return {
            "daemon_rss_mb": Figure(megabytes(proc / "status", "VmRSS"), "MB", at_most=56),
            "daemon_pss_mb": Figure(megabytes(proc / "smaps_rollup", "Pss"), "MB"),
            "status_ms": Figure(statistics.median(_status_ms(node) for _ in range(RUNS)), "ms", at_most=200),
        }


def megabytes(file: Path, key: str) -> float:
    """A ``key:  N kB`` line of /proc in MB (2**20 bytes)."""
    return kibibytes(file, key) / 1024


def kibibytes(file: Path, key: str) -> int:
    """A ``key:  N kB`` line of /proc, whose kB are 1024 bytes."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def _status_ms(node: Node) -> float:
    command = [str(OVERLAID), "status", "--config", str(node.config)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
