"""Which register writes reach the core: it must never transfer from or to memory that is not its client's.

The core reads and writes physical addresses: region base + offset, the offset checked by the core against the region's
size. So base and size of all four regions are kept here until a start; only when each lies in a buffer of the client
are they written to the core, together, followed by the start. The order in which a client sets low and high words does
not matter, and the core never holds a region that was not checked.

Each client has a guard, and they take turns on the core. A start writes every register that a chain depends on, so
nothing of what another client set is left, and what a client sets between its turns waits for its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.errors import DeviceError, OverlayLoadError
from agent.overlay.spec import Overlay, load_spec

START, SOFT_RESET, INTERRUPT_ENABLE = 0x1, 0x2, 0x4  # CONTROL
BUSY, DONE, ERROR = 0x1, 0x2, 0x4  # STATUS
REGIONS = range(4)
ALIGNMENT = 64  # the core takes the low bits of a base for zero
REGISTER_BYTES = 4096

Write = tuple[int, int]  # offset, value
Span = tuple[int, int]  # address, bytes


class Guard:
    """The register writes of one client. ``at_rest``: every transfer of the core has ended."""

    def __init__(self, spec: Overlay) -> None:
        """OverlayLoadError when its registers are not those that are guarded here: those of the overlay ``npu``."""
        if spec.registers != load_spec("npu").registers:
            raise OverlayLoadError(
                f"overlay {spec.id} version {spec.version} has other registers than overlaid-fpga.service knows; "
                "update overlaid on this board"
            )
        self.at_rest = True
        self._busy = self._resetting = False
        self._names = {
            register.offset: name for name, register in spec.registers.items() if register.access == "rw"
        }
        self._initial = {
            spec.register(f"REGION{number}_{part}"): 0
            for number in REGIONS
            for part in ("LOW", "HIGH", "BYTES")
        } | {spec.register("WATCHDOG"): spec.axi.watchdog_cycles, spec.register("CHAIN"): 0}
        self._held = dict(self._initial)
        self._spec = spec

    def held(self, offset: int) -> int | None:
        """What the client last wrote to a register that waits for the start; None for others. DeviceError outside the
        core."""
        return self._held.get(_checked(offset))

    def write(
        self, offset: int, value: int, buffers: Iterable[Span], read_status: Callable[[], int]
    ) -> tuple[Write, ...]:
        """What to write to the core for the client's write: nothing where no register can be written. DeviceError that
        says why not."""
        name = self._names.get(_checked(offset))
        if name is None:
            return ()
        if offset in self._held:
            self._held[offset] = value
            return ()
        if name == "STATUS":
            self.see(read_status())  # the write may clear what it says
        if name != "CONTROL":
            return ((offset, value),)
        if value & SOFT_RESET:
            return self._reset(offset, value)
        if value & START:
            self.see(read_status())
            return self._start(offset, value, buffers)
        return ((offset, value & INTERRUPT_ENABLE),)

    def see(self, status: int) -> None:
        """Take note of STATUS: what does not run after a reset, or is done, transfers nothing any more.

        An error alone does not say so: the transfers under way end with the reset that follows.
        """
        self._busy = bool(status & BUSY)
        if not self._busy and (self._resetting or status & (DONE | ERROR) == DONE):
            self.at_rest, self._resetting = True, False

    def rest(self) -> None:
        """Take note that the core was stopped, or loaded anew."""
        self.at_rest, self._busy, self._resetting = True, False, False

    def check(self, buffers: Iterable[Span]) -> None:
        """DeviceError when a start would be refused because a region lies in no buffer."""
        spans = tuple(buffers)
        for number in REGIONS:
            self._check(number, spans)

    def _reset(self, offset: int, value: int) -> tuple[Write, ...]:
        if value & START:
            raise DeviceError(
                "start and soft reset in one write; reset, wait until the core is not busy, start"
            )
        self._resetting = True
        self._held = dict(self._initial)
        return ((offset, value & (SOFT_RESET | INTERRUPT_ENABLE)),)

    def _start(self, offset: int, value: int, buffers: Iterable[Span]) -> tuple[Write, ...]:
        if self._busy:
            raise DeviceError("the core is running; wait until it has ended, or reset it")
        self.check(buffers)
        self.at_rest = False
        return (*self._held.items(), (offset, value & (START | INTERRUPT_ENABLE)))

    def _check(self, number: int, buffers: tuple[Span, ...]) -> None:
        low, high, nbytes = (
            self._held[self._spec.register(f"REGION{number}_{part}")] for part in ("LOW", "HIGH", "BYTES")
        )
        base = high << 32 | low
        inside = (
            any(address <= base and base + nbytes <= address + size for address, size in buffers)
            and base % ALIGNMENT == 0
        )
        if not inside and (base or nbytes):
            raise DeviceError(
                f"region {number} ({nbytes} bytes at {base:#x}) does not lie in a buffer of this client; the core is "
                "not started"
            )


def _checked(offset: int) -> int:
    if not 0 <= offset < REGISTER_BYTES or offset % 4:
        raise DeviceError(f"the core has no register at {offset:#x}; it has {REGISTER_BYTES} bytes of them")
    return offset
