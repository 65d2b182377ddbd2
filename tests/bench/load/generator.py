"""Builds and runs the load generator (load.c)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("load.c")
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Latencies in µs, from the first byte sent to the last byte read; requests per second."""

    p50_us: float
    p99_us: float
    rps: float
    requests: int


class Generator:
    """The compiled program in ``folder``. RuntimeError with what it says when a request is not answered with 200."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "load"
        self._folder = folder
        command = ["gcc", "-O2", "-Wall", "-Werror", "-o", str(self._program), str(SOURCE)]
        subprocess.run(command, check=True)

    def run(
        self, address: str, request: bytes, requests: int, connections: int = 1, warmup: int = 20
    ) -> Measured:
        """``address``: a Unix socket's path or ``HOST:PORT``; the same request again and again."""
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            file.write(request)
            file.flush()
            numbers = [str(number) for number in (connections, requests, warmup)]
            done = subprocess.run(
                [str(self._program), address, file.name, *numbers],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        if done.returncode != 0:
            raise RuntimeError(f"{address}: {done.stderr.strip()}")
        return Measured(**json.loads(done.stdout))
