"""How a driver reaches an overlay: registers, memory that both see, and an interrupt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


class Buffer(Protocol):
    """Memory that the overlay reads and writes by physical address. Not cached, or kept coherent by read and write."""

    address: int
    nbytes: int

    def write(self, offset: int, data: bytes) -> None:
        """Copy to the overlay's side. ValueError outside the buffer."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """Copy back. ValueError outside the buffer."""
        ...

    def close(self) -> None:
        """Free it; the overlay must not use it any more."""
        ...


class OverlayTransport(Protocol):
    """An overlay that has been loaded. Found by name through the entry-point group ``overlaid.transports``; the factory
    takes the folder that holds ``overlay.toml`` (and the bitstream) and loads it: OverlayLoadError when that fails.

    Not thread-safe: one driver at a time.
    """

    def read32(self, offset: int) -> int:
        """A register. DeviceLost when it does not answer."""
        ...

    def write32(self, offset: int, value: int) -> None:
        """Set a register. OverlayTaken, when this would start the overlay, where processes take turns on it and another
        one ran since the last soft reset: nothing is started, and what was on the chip is gone."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Contiguous memory, 4096-byte aligned, contents undefined. DeviceError when there is none left."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the overlay interrupts; False when ``timeout_s`` (of wall time) passed first."""
        ...

    def give_way(self) -> None:
        """The next start is for another inference: where processes take turns on the overlay, who waits goes first, and
        that start raises OverlayTaken then. Nothing else changes; without others nothing does."""
        ...

    def compute_ends(self) -> Sequence[int]:
        """Cycle, since the last start, at which each CONV, DEPTHWISE, POOL or ADD ended; empty where nobody counts."""
        ...

    def close(self) -> None:
        """Let go of the overlay and of every buffer."""
        ...


@runtime_checkable
class ReloadableTransport(OverlayTransport, Protocol):
    """One that overlaid-fpga.service can lend: the FPGA takes another overlay while its buffers stay."""

    def reload(self, folder: Path) -> None:
        """Load the overlay in ``folder`` instead (or the same again). Every buffer keeps its address and contents.

        OverlayLoadError when that fails: the registers are not to be used then until a reload succeeds.
        """
        ...
