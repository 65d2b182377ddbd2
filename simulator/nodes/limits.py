"""How many nodes this process may hold: open files, and the length of a socket's path."""

from __future__ import annotations

import resource
from pathlib import Path

from agent.errors import UsageError
from simulator.nodes.node import name_of

FILES_PER_NODE = 19  # 16 with a connection for blocks, measured; 3 more for a second one
OTHER_FILES = 64
MAX_SOCKET_PATH = 107  # sockaddr_un of Linux, without the final zero


def reserve_files(count: int) -> None:
    """Raise this process's limit of open files as far as ``count`` nodes need; UsageError when that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = count * FILES_PER_NODE + OTHER_FILES
    if hard != resource.RLIM_INFINITY and need > hard:
        raise UsageError(
            f"{count} nodes open up to {need} files, this user may open {hard}: at most --count "
            f"{max(0, hard - OTHER_FILES) // FILES_PER_NODE}, or raise the limit (ulimit -Hn, limits.conf)"
        )
    if soft != resource.RLIM_INFINITY and soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def check_path(root: Path, model: str) -> None:
    """UsageError when the path of a model's socket below ``root`` would be too long."""
    path = root / name_of(0) / "run" / "models" / f"{model}.sock"
    if len(bytes(path)) > MAX_SOCKET_PATH:
        raise UsageError(f"{path} is too long for a socket: set TMPDIR to a shorter folder, e.g. /tmp")
