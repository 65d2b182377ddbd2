"""The functional overlay behind ``hal.OverlayTransport``: bits of the instruction set, time of the cycle model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.errors import DeviceLost
from agent.hal import Buffer
from agent.overlay.spec import Overlay, read_spec
from simulator.overlay.machine import Machine
from simulator.overlay.memory import Memory


def open_transport(folder: Path) -> FunctionalTransport:
    """The overlay whose ``overlay.toml`` lies in ``folder``. Raises OverlayLoadError."""
    return FunctionalTransport(read_spec(folder))


class FunctionalTransport:
    """See ``hal.OverlayTransport``. A chain has ended when the write that started it returns."""

    def __init__(self, spec: Overlay) -> None:
        self._machine: Machine | None = Machine(spec, Memory())

    @property
    def _core(self) -> Machine:
        if self._machine is None:
            raise DeviceLost("the overlay was let go; load it again")
        return self._machine

    def read32(self, offset: int) -> int:
        """See ``hal.OverlayTransport.read32``."""
        return self._core.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        """See ``hal.OverlayTransport.write32``."""
        self._core.write32(offset, value)

    def allocate(self, nbytes: int) -> Buffer:
        """See ``hal.OverlayTransport.allocate``."""
        return self._core.memory.allocate(nbytes)

    def wait(self, timeout_s: float) -> bool:  # noqa: ARG002
        """See ``hal.OverlayTransport.wait``: what has not ended yet never will, so this does not sleep."""
        return self._core.interrupt

    def give_way(self) -> None:
        """See ``hal.OverlayTransport.give_way``: there is nobody else."""

    def compute_ends(self) -> Sequence[int]:
        """See ``hal.OverlayTransport.compute_ends``."""
        return self._core.compute_ends

    def reload(self, folder: Path) -> None:
        """See ``hal.ReloadableTransport.reload``."""
        self._machine = Machine(read_spec(folder), self._core.memory)

    def close(self) -> None:
        """See ``hal.OverlayTransport.close``."""
        self._machine = None
