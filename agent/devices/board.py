"""Boards by their configured name, and the board that this machine is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from agent.devices.cpu import CpuDevice
from agent.devices.power import open_meters
from agent.errors import RuntimeUnavailable, one_line
from agent.hal import Board, Device, PowerMeter
from agent.types import BoardInfo

GROUP = "overlaid.boards"


def open_board(name: str, folder: Path) -> Board:
    """The board called ``name``: an entry point of ``overlaid.boards``, with an argument after ':' where it takes one.

    ``folder``: see ``hal.Board``. Raises RuntimeUnavailable, naming the boards that exist.
    """
    kind, _, argument = name.partition(":")
    found = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in found:
        raise RuntimeUnavailable(
            f"there is no board {name!r}; set board to one of: {', '.join(sorted(found)) or 'none is installed'}"
        )
    try:
        factory = found[kind].load()
        return cast(Board, factory(argument, folder))
    except (ImportError, AttributeError, TypeError) as error:
        raise RuntimeUnavailable(f"board {name!r} cannot be opened: {one_line(error)}") from error


class LocalBoard:
    """This machine: its CPU and its power sensors. It keeps nothing in its folder."""

    def __init__(self, argument: str, _folder: Path) -> None:
        if argument:
            raise RuntimeUnavailable(f"board local takes no argument, not {argument!r}: set board to local")
        self._cpu = CpuDevice()

    def describe(self) -> BoardInfo:
        """See ``hal.Board.describe``."""
        meters, power_problems = open_meters()
        return BoardInfo(
            name="local",
            simulated=False,
            devices=(self._cpu.info,),
            meters=tuple(meter.rail for meter in meters),
            problems=(*self._cpu.proof.problems, *power_problems),
        )

    def device(self, device_id: str) -> Device:
        """See ``hal.Board.device``."""
        if device_id != "cpu":
            raise RuntimeUnavailable(f"there is no device {device_id!r} on this board; it has: cpu")
        return self._cpu

    def meters(self) -> Sequence[PowerMeter]:
        """See ``hal.Board.meters``: those that can be read; the others are among ``describe().problems``."""
        return open_meters()[0]

    def wall_time(self) -> float:
        """See ``hal.Board.wall_time``."""
        return time.time()

    def before_write(self, nbytes: int) -> None:
        """See ``hal.Board.before_write``: the disk speaks for itself."""
