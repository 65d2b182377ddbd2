"""Boards by their configured name, and the board that this machine is."""

from __future__ import annotations

import functools
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from agent.devices.cpu import CpuDevice
from agent.devices.fpga import FpgaDevice, shipped_overlays
from agent.devices.machine import power_mode
from agent.devices.power import open_meters
from agent.errors import DeviceError, DeviceLost, OverlayLoadError, RuntimeUnavailable, one_line
from agent.hal import Board, Device, PowerMeter
from agent.types import BoardInfo, DeviceInfo

GROUP = "overlaid.boards"
SOFTWARE_GPU = "software-gpu"
FPGA_MANAGER = Path("/sys/class/fpga_manager/fpga0")  # of Linux, where there is an FPGA that it can configure


def open_board(name: str, folder: Path) -> Board:
    """The board called ``name``: an entry point of ``overlaid.boards``, with an argument after ':' where it takes one.

    ``folder``: see ``hal.Board``. Raises RuntimeUnavailable, naming the boards that exist.
    """
    kind, _, argument = name.partition(":")
    found = installed_boards()
    if kind not in found:
        raise RuntimeUnavailable(
            f"there is no board {name!r}; set board to one of: {', '.join(sorted(found)) or 'none is installed'}"
        )
    try:
        factory = found[kind].load()
        return cast(Board, factory(argument, folder))
    except (ImportError, AttributeError, TypeError) as error:
        raise RuntimeUnavailable(f"board {name!r} cannot be opened: {one_line(error)}") from error


@functools.cache
def installed_boards() -> Mapping[str, EntryPoint]:
    """By name. Reads what every installed package says of itself, once: about 20 ms and 1 MB."""
    return {point.name: point for point in entry_points(group=GROUP)}


class LocalBoard:
    """This machine: its CPU, GPUs, FPGA cards, the FPGA that overlaid-fpga.service lends, and its power sensors.

    ``argument``: empty, or "software-gpu" for one whose GPU is played by the CPU, to try what runs on GPUs without one.
    Overlays that were delivered are unpacked in its folder, where that service sees them.
    """

    def __init__(self, argument: str, folder: Path) -> None:
        if argument not in ("", SOFTWARE_GPU):
            raise RuntimeUnavailable(
                f"there is no board local:{argument}; set board to local or local:{SOFTWARE_GPU}"
            )
        self._name = f"local:{argument}" if argument else "local"
        self._software = argument == SOFTWARE_GPU
        self._cpu = CpuDevice()
        self._folder = folder

    def describe(self) -> BoardInfo:
        """See ``hal.Board.describe``."""
        from agent.devices.gpu.device import local_gpus
        from agent.devices.gpu.probing import probe_gpus
        from agent.devices.opencl.cards import find_cards

        with ThreadPoolExecutor(2) as beside:
            probing = beside.submit(lambda: probe_gpus(local_gpus(self._software)))
            looking = beside.submit(find_cards)
            cpu, proof = self._cpu.info, self._cpu.proof
        gpus, (cards, card_problems) = probing.result(), looking.result()
        meters, power_problems = open_meters()
        fpga, fpga_problems = self._look_for_fpga()
        return BoardInfo(
            name=self._name,
            simulated=False,
            devices=(cpu, *gpus.devices, *cards, *fpga),
            meters=tuple(meter.rail for meter in meters),
            problems=(
                *proof.problems,
                *gpus.problems,
                *card_problems,
                *fpga_problems,
                *power_problems,
            ),
            power_mode=power_mode(),
        )

    def device(self, device_id: str) -> Device:
        """See ``hal.Board.device``; DeviceLost for a GPU or a card that is not there: it was, when somebody asks."""
        if device_id == "cpu":
            return self._cpu
        if device_id == "fpga":
            return self._fpga()
        if device_id.startswith("card"):
            from agent.devices.opencl.cards import open_card

            return open_card(device_id)
        from agent.devices.gpu.device import GpuDevice, local_gpus

        gpus = {gpu.id: gpu for gpu in local_gpus(self._software)}
        if device_id in gpus:
            return GpuDevice(gpus[device_id])
        there = ", ".join(("cpu", *gpus, *(info.id for info in self._look_for_fpga()[0])))
        missing = DeviceLost if re.fullmatch(r"gpu\d*", device_id) else RuntimeUnavailable
        raise missing(f"there is no device {device_id!r} on this board; it has: {there}")

    def _fpga(self) -> FpgaDevice:
        """Raises DeviceError when nobody lends one."""
        from agent.devices.remote_transport import ask_status

        return FpgaDevice("fpga", ask_status().model or "FPGA", "remote", self._folder / "overlays")

    def _look_for_fpga(self) -> tuple[tuple[DeviceInfo, ...], tuple[str, ...]]:
        """The FPGA, if there is one, and why it is not usable."""
        try:
            info = self._fpga().info
        except DeviceError as error:
            return (), (f"fpga: {error}",) if FPGA_MANAGER.exists() else ()
        return (replace(info, overlays=shipped_overlays(_with_bitstream())),), ()

    def meters(self) -> Sequence[PowerMeter]:
        """See ``hal.Board.meters``: those that can be read; the others are among ``describe().problems``."""
        return open_meters()[0]

    def wall_time(self) -> float:
        """See ``hal.Board.wall_time``."""
        return time.time()

    def before_write(self, nbytes: int) -> None:
        """See ``hal.Board.before_write``: the disk speaks for itself."""


def _with_bitstream() -> Iterator[str]:
    """The overlays that ship with the agent and have a bitstream for this chip."""
    from agent.devices.bitstream import find_bitstream
    from bitstreams import FOLDER

    for path in sorted(FOLDER.glob("*/overlay.toml")):
        try:
            find_bitstream(path.parent, platform.machine())
        except OverlayLoadError:
            continue
        yield path.parent.name
