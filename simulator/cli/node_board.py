"""The simulated board of the node that a configuration describes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.config import load_config
from agent.errors import ConfigError, UsageError
from simulator.faultfile import FaultFile
from simulator.profile import BoardProfile, board_names, load_profile


@dataclass(frozen=True, slots=True)
class NodeBoard:
    """``folder``: where the node's processes share the board's state."""

    profile: BoardProfile
    folder: Path

    @property
    def faults(self) -> FaultFile:
        return FaultFile(self.folder, self.profile)

    @contextlib.contextmanager
    def alone(self) -> Iterator[FaultFile]:
        """The injected faults, not changed by another command meanwhile."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield self.faults
        finally:
            os.close(folder)


def find_node_board(config_file: Path | None) -> NodeBoard:
    """UsageError when the node's board is not a simulated one or when no node has run with this configuration."""
    config = load_config(config_file)
    kind, _, name = config.node.board.partition(":")
    if kind != "sim":
        raise UsageError(
            f"this node's board is {config.node.board!r}, not a simulated one: set board under [node] in its "
            f"configuration (--config FILE) to one of "
            f"{', '.join(f'sim:{each}' for each in board_names())}, and restart it"
        )
    profile = load_profile(name)
    folder = config.paths.runtime
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: there is no such folder, so no node has run with this configuration; "
            "start it (overlaid run --config FILE), or name its own with --config"
        )
    return NodeBoard(profile, folder)
