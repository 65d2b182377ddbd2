"""Many simulated nodes on a stage, as a process of their own: for system tests and benches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.stage import OVERLAID, Stage, stop_process, wait_until

QUICK = ("--soak", "0.2s", "--profile", "0.2s")
BUDGET = ("--latency-p99", "10ms", "--rate", "10/s")  # numpy on the Zynq's core takes 16 ms for digits


@dataclass(frozen=True, slots=True)
class Crowd:
    """``folder``: where the nodes' temporary files are; short, for their sockets' paths."""

    stage: Stage
    process: subprocess.Popen[bytes]
    folder: Path
    count: int

    def wait_online(self) -> None:
        """Until the operator sees all of them."""
        wait_until(f"{self.count} nodes", lambda: self._ended() or len(self.online()) == self.count, 60.0)

    def views(self) -> list[dict[str, Any]]:
        """The nodes as ``overlaid fleet status`` shows them."""
        nodes: list[dict[str, Any]] = json.loads(self.stage.fleet("status", "--json").stdout)["nodes"]
        return [node for node in nodes if node["node"].startswith("sim-")]

    def online(self) -> list[dict[str, Any]]:
        return [node for node in self.views() if node["online"]]

    def deploy(self, package: str, wait_s: float | None = None) -> list[dict[str, Any]]:
        """``overlaid fleet deploy`` to their group; with ``wait_s`` what became of it on each."""
        waiting = () if wait_s is None else ("--wait", "--timeout", str(wait_s))
        done = self.stage.fleet("deploy", package, "--group", "sim", *BUDGET, *waiting, "--json", check=False)
        if wait_s is None and done.returncode != 0:
            raise RuntimeError(done.stderr)
        nodes: list[dict[str, Any]] = json.loads(done.stdout).get("nodes", [])
        return nodes

    def report(self, timeout_s: float = 90.0) -> tuple[int, dict[str, Any]]:
        """Exit code and report, once the process has ended."""
        out, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, json.loads(out)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def _ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def crowd(it: Stage, count: int, *options: str) -> Iterator[Crowd]:
    """``overlaid sim nodes`` with these options, printing JSON; ended at the end."""
    with tempfile.TemporaryDirectory(prefix="many-", dir="/tmp") as name:
        folder = Path(name)
        with (it.folder / "nodes.log").open("ab") as log:
            process = subprocess.Popen(
                [str(OVERLAID), "sim", "nodes", "--count", str(count), "--home", str(it.home), "--json", *options],
                stdout=subprocess.PIPE, stderr=log, env={**os.environ, "TMPDIR": str(folder)},
            )  # fmt: skip
        try:
            yield Crowd(it, process, folder, count)
        finally:
            stop_process(process, 30.0)
            if process.stdout is not None:
                process.stdout.close()
