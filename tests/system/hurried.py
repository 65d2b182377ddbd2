"""A daemon for tests of the link: it comes back after tenths of a second, and knows without looking what the board has.

``python -m tests.system.hurried ARGS``: as ``overlaid ARGS``.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

from agent.app import daemon
from agent.cli import main
from agent.link import backoff, client
from agent.types import BackendInfo, BoardInfo, DeviceInfo

FLOOR_S, CAP_S = 0.1, 1.0


def _cpu_alone(_board: str, _folder: Path) -> BoardInfo:
    runtime = BackendInfo("onnxruntime", version("onnxruntime"), ("onnx",))
    return BoardInfo("local", False, (DeviceInfo("cpu", "cpu", "CPU", (runtime,)),))


if __name__ == "__main__":
    client.Backoff = partial(backoff.Backoff, FLOOR_S, CAP_S, 5.0)  # type: ignore[assignment, attr-defined]
    daemon.Daemon = partial(daemon.Daemon, probe=_cpu_alone)  # type: ignore[assignment, misc]
    sys.exit(main(sys.argv[1:]))
