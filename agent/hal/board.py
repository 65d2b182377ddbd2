"""A board: the devices and power meters of one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agent.hal.device import Device
from agent.hal.power import PowerMeter
from agent.types import BoardInfo


class Board(Protocol):
    """Found by its configured name through the entry-point group ``overlaid.boards``.

    The factory gets the part of the name after ``:`` and a folder (``sim:pynq-z2`` → ``factory("pynq-z2", folder)``).
    The folder is the node's own and need not survive a reboot; the processes of a node meet there (a simulated board
    keeps its state in it).
    """

    def describe(self) -> BoardInfo:
        """Probe everything once: devices, backends, meters and why something is not usable. May take seconds and
        imports runtimes: runs in a helper process, never in the daemon."""
        ...

    def device(self, device_id: str) -> Device:
        """The device with this id; RuntimeUnavailable (naming those that exist) otherwise."""
        ...

    def meters(self) -> Sequence[PowerMeter]:
        """Readable power meters; standard library only, used inside the daemon."""
        ...

    def wall_time(self) -> float:
        """Unix seconds as this board's clock shows them, right or wrong."""
        ...

    def before_write(self, nbytes: int) -> None:
        """Called before the block store writes ``nbytes``: a board whose disk is slow takes its time, one whose disk is
        full raises OSError."""
        ...
