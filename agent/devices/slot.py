"""The one overlay that an FPGA holds, and the programs on it. Imports numpy: for workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from agent.devices.program import Executed
from agent.errors import DeviceLost, DmaTimeout, OverlayHung
from agent.overlay.chain import check_program
from agent.overlay.driver import Driver, LoadedProgram
from agent.overlay.execute import RunPart
from agent.overlay.overlap import Overlapped
from agent.overlay.program import Program
from agent.overlay.regions import Arrays
from agent.overlay.spec import read_spec
from agent.overlay.transports import find_transport


class Slot:
    """Loads an overlay when a program needs another one than is there. Not thread-safe."""

    def __init__(self, transport: str) -> None:
        self._transport = transport
        self._folder: Path | None = None
        self._driver: Driver | None = None
        self._loaded: dict[int, LoadedProgram] = {}  # by the engine's identity

    def load(self, engine: OverlayEngine) -> LoadedProgram:
        """The engine's program, on its overlay. Raises OverlayLoadError, ProgramError, RuntimeUnavailable."""
        if self._driver is None or self._folder != engine.folder:
            self.empty()
            transport = find_transport(self._transport)(engine.folder)
            try:
                self._driver = Driver(transport, engine.spec)
            except BaseException:
                transport.close()
                raise
            self._folder = engine.folder
        if id(engine) not in self._loaded:
            self._loaded[id(engine)] = self._driver.load(engine.program)
        return self._loaded[id(engine)]

    def unload(self, engine: OverlayEngine) -> None:
        """Free what the engine's program takes."""
        loaded = self._loaded.pop(id(engine), None)
        if loaded is not None:
            loaded.close()

    def empty(self) -> None:
        """Let go of the overlay; the next run loads one again."""
        driver, self._driver = self._driver, None
        self._loaded.clear()
        if driver is not None:
            driver.close()


class OverlayEngine:
    """Runs a program's segments on the overlay in ``folder``; see ``program.Engine``."""

    def __init__(self, slot: Slot, folder: Path, program: Program) -> None:
        """Loads the overlay and the program; ProgramError before that when they do not belong together."""
        self.folder, self.program = folder, program
        self.spec = read_spec(folder)
        check_program(program, self.spec)
        self._slot = slot
        slot.load(self)

    def execute(self, samples: Sequence[Arrays], run_part: RunPart) -> Executed:
        """See ``program.Engine.execute``: packing and unpacking beside the overlay's work (``overlay.overlap``).

        After a hang the overlay is loaded anew by the next run.
        """
        started = time.perf_counter()
        try:
            overlapped = Overlapped(self._slot.load(self), run_part)
            outputs = overlapped.run(samples)
        except (OverlayHung, DmaTimeout, DeviceLost):
            self._slot.empty()
            raise
        times = overlapped.times
        parts = {"cpu": times.host_s, "fpga": times.overlay_s}
        return Executed(outputs, times.device_s, time.perf_counter() - started, parts)

    def close(self) -> None:
        """Free the program's memory."""
        self._slot.unload(self)
