"""The overlay's RTL behind ``hal.OverlayTransport``: compiled by Verilator, with a model of the board's memory.

Time passes only inside ``read32``, ``write32`` and ``wait``, one clock cycle after the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import DeviceLost, OverlayFault, OverlayLoadError
from agent.hal import Buffer
from agent.overlay.spec import Overlay, read_spec
from simulator.overlay.build import Progress, library
from simulator.overlay.memory import Memory, NumpyBuffer

log = logging.getLogger("simulator")
SLICE_CYCLES = 20_000  # between looks at the wall clock: some 0.04 s
NEVER = 0xFFFFFFFF
START = 1  # CONTROL


@dataclass(frozen=True, slots=True)
class Ddr:
    """The memory behind the 64-bit port, in cycles of the core's clock.

    ``read_latency``: from the address to the first beat; ``write_latency``: from the last beat to the response.
    ``stall_permille``: chance of a stall in each cycle on each of the five AXI channels; ``seed``: of those, and of
    what no reset sets in the core.
    """

    read_latency: int = 40
    write_latency: int = 10
    stall_permille: int = 0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class BusFaults:
    """What goes wrong from now on: after how many more bursts the memory answers one with an error, or answers no
    more; None: never. ``drop_interrupt``: the interrupt does not arrive."""

    read_error: int | None = None
    read_hang: int | None = None
    write_error: int | None = None
    write_hang: int | None = None
    drop_interrupt: bool = False


def open_transport(folder: Path) -> RtlTransport:
    """The overlay whose ``overlay.toml`` lies in ``folder``; compiles the RTL when that has not been done yet.

    Raises OverlayLoadError, and RuntimeUnavailable when Verilator or a C++ compiler is missing.
    """
    return RtlTransport(read_spec(folder), progress=log.info)


class RtlTransport:
    """See ``hal.OverlayTransport``. Raises OverlayFault when the core breaks a rule of the AXI bus."""

    def __init__(self, spec: Overlay, ddr: Ddr | None = None, progress: Progress | None = None) -> None:
        """``progress`` is told what is being compiled. See ``open_transport`` for errors."""
        self._ddr, self._progress = ddr or Ddr(), progress
        self._memory = MappedMemory()
        self._load(spec)

    def _load(self, spec: Overlay) -> None:
        self.spec = spec
        self._library = _load(library(spec, self._progress))
        ddr = self._ddr
        self._twin: int | None = self._library.twin_open(
            ddr.read_latency, ddr.write_latency, ddr.stall_permille, ddr.seed
        )
        self._memory.attach(self._library, self._core)
        self._drop_interrupt = False

    @property
    def _core(self) -> int:
        if self._twin is None:
            raise DeviceLost("the overlay was let go; load it again")
        return self._twin

    @property
    def cycles(self) -> int:
        """Of the clock, since the core was loaded."""
        return int(self._library.twin_cycles(self._core))

    def read32(self, offset: int) -> int:
        """See ``hal.OverlayTransport.read32``."""
        value = ctypes.c_uint32()
        answered = self._library.twin_read(self._core, offset, ctypes.byref(value))
        self._check(answered, offset)
        return value.value

    def write32(self, offset: int, value: int) -> None:
        """See ``hal.OverlayTransport.write32``."""
        if offset == self.spec.register("CONTROL") and value & START:
            self._library.twin_start_count(self._core)
        self._check(self._library.twin_write(self._core, offset, value & 0xFFFFFFFF), offset)

    def allocate(self, nbytes: int) -> Buffer:
        """See ``hal.OverlayTransport.allocate``."""
        self._core  # noqa: B018  # DeviceLost after close
        return self._memory.allocate(nbytes)

    def wait(self, timeout_s: float) -> bool:
        """See ``hal.OverlayTransport.wait``: runs the clock, at least one slice of cycles."""
        deadline = time.monotonic() + timeout_s
        while not self._library.twin_run(self._core, SLICE_CYCLES):
            self._check_rules()
            if time.monotonic() >= deadline:
                return False
        self._check_rules()
        return not self._drop_interrupt

    def give_way(self) -> None:
        """See ``hal.OverlayTransport.give_way``: there is nobody else."""

    def compute_ends(self) -> Sequence[int]:
        """See ``hal.OverlayTransport.compute_ends``."""
        ends = ctypes.POINTER(ctypes.c_uint64)()
        count = self._library.twin_ends(self._core, ctypes.byref(ends))
        return tuple(ends[:count])

    def inject(self, faults: BusFaults) -> None:
        """Replace what goes wrong; what hung before is answered now."""
        after = (faults.read_error, faults.read_hang, faults.write_error, faults.write_hang)
        self._library.twin_fault(self._core, *(NEVER if bursts is None else bursts for bursts in after))
        self._drop_interrupt = faults.drop_interrupt

    def reload(self, folder: Path) -> None:
        """See ``hal.ReloadableTransport.reload``."""
        spec = read_spec(folder)
        self.close()
        self._load(spec)

    def close(self) -> None:
        """See ``hal.OverlayTransport.close``."""
        if self._twin is not None:
            self._memory.forget()
            self._library.twin_close(self._twin)
            self._twin = None

    def _check(self, answered: bool, offset: int) -> None:
        self._check_rules()
        if not answered:
            raise DeviceLost(
                f"overlay {self.spec.id} does not answer at register 0x{offset:X}; load it again"
            )

    def _check_rules(self) -> None:
        broken = self._library.twin_violation(self._core)
        if broken:
            raise OverlayFault(
                f"overlay {self.spec.id} broke a rule of the AXI bus: {broken.decode()}; mend the RTL"
            )


class MappedMemory(Memory):
    """Buffers that the memory model sees until they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self._twin: int | None = None

    def attach(self, library: ctypes.CDLL, twin: int) -> None:
        """Show an overlay every buffer."""
        self._library, self._twin = library, twin
        for buffer in self.buffers():
            self._map(buffer)

    def allocate(self, nbytes: int) -> NumpyBuffer:
        """See ``hal.OverlayTransport.allocate``."""
        buffer = super().allocate(nbytes)
        self._map(buffer)
        return buffer

    def free(self, buffer: NumpyBuffer) -> None:
        """See ``Memory.free``."""
        if self._twin is not None:
            self._library.twin_unmap(self._twin, buffer.address)
        super().free(buffer)

    def forget(self) -> None:
        """The overlay is gone: nobody sees the buffers any more."""
        self._twin = None

    def _map(self, buffer: NumpyBuffer) -> None:
        self._library.twin_map(self._twin, buffer.address, buffer.nbytes, buffer.bytes.ctypes.data)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    """The library with the types of its functions. OverlayLoadError when it cannot be loaded."""
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()  # spoilt: the next one who asks compiles it again
        raise OverlayLoadError(
            f"cannot load the compiled RTL: {error}; try again, which compiles it anew"
        ) from error
    u32, u64, pointer, flag = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_bool
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "twin_open": (pointer, [u32, u32, u32, u64]),
        "twin_close": (None, [pointer]),
        "twin_map": (None, [pointer, u64, u64, pointer]),
        "twin_unmap": (None, [pointer, u64]),
        "twin_read": (flag, [pointer, u32, ctypes.POINTER(u32)]),
        "twin_write": (flag, [pointer, u32, u32]),
        "twin_start_count": (None, [pointer]),
        "twin_run": (flag, [pointer, u64]),
        "twin_cycles": (u64, [pointer]),
        "twin_ends": (u64, [pointer, ctypes.POINTER(ctypes.POINTER(u64))]),
        "twin_violation": (ctypes.c_char_p, [pointer]),
        "twin_fault": (None, [pointer, u32, u32, u32, u32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
