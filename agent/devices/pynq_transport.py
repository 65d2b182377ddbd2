"""An overlay on a Zynq through PYNQ: bitstream, registers, contiguous memory and interrupt. Needs root and pynq 4.0.

pynq is imported when a bitstream is loaded, and only here. The process that does so on a node is overlaid-fpga.service
(agent.devices.fpga_service).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.devices.bitstream import find_bitstream
from agent.errors import DeviceError, DeviceLost, OverlayLoadError, RuntimeUnavailable, one_line
from agent.hal import OverlayTransport
from agent.overlay.spec import ID, Overlay, read_spec

log = logging.getLogger("pynq")

PAGE = 4096
REGISTER_BYTES = 4096
BUSY, FINISHED = 0x1, 0x6  # STATUS: busy; done or error, on which the overlay interrupts
SOFT_RESET, INTERRUPT_ENABLE = 0x2, 0x4  # CONTROL
STOP_S = 1.0  # the core drains its transfers within microseconds
RECHECK_S = 0.05  # an interrupt that got lost costs no more than this
FIRST_PAUSE_S, LAST_PAUSE_S = 50e-6, 2e-3

_held: list[Any] = []  # buffers of a core that did not stop; free again once another bitstream is loaded


def open_transport(folder: Path) -> OverlayTransport:
    """Load the bitstream in ``folder`` (see ``find_bitstream``) into the FPGA.

    Raises OverlayLoadError (no or a wrong bitstream), RuntimeUnavailable (no pynq, no FPGA, no right to use it).
    """
    return PynqTransport(_import_pynq(), folder)


class PynqTransport:
    """See ``hal.ReloadableTransport``. Buffers are the kernel's contiguous memory, and outlive a bitstream."""

    def __init__(self, pynq: Any, folder: Path) -> None:
        """See ``open_transport``."""
        self._pynq = pynq
        self._buffers: set[PynqBuffer] = set()
        self._load(folder)

    def _load(self, folder: Path) -> None:
        spec = read_spec(folder)
        bitstream = find_bitstream(folder, _device(self._pynq).arch)
        self._mapped: Any = None  # never the addresses of the design before
        overlay = _load(self._pynq, bitstream, spec)
        name, block = _core(overlay)
        self._overlay = overlay  # pynq frees what belongs to it with it
        self._status, self._control = spec.register("STATUS"), spec.register("CONTROL")
        self._interrupt = _interrupt(self._pynq, overlay, name)
        self._enabled = False  # whether the core may interrupt
        mapped = self._pynq.MMIO(block["phys_addr"], REGISTER_BYTES, device=overlay.device)
        found = mapped.read(spec.register("ID"))
        if found != ID:
            raise OverlayLoadError(
                f"{bitstream} is loaded, but its core answers {found:#010x} for its ID instead of {ID:#010x}; "
                "is it built from bitstreams/npu?"
            )
        self._mapped = mapped

    @property
    def _registers(self) -> Any:
        if self._mapped is None:
            raise DeviceLost("the overlay was let go; load it again")
        return self._mapped

    def read32(self, offset: int) -> int:
        """See ``hal.OverlayTransport.read32``."""
        value: int = self._registers.read(_register(offset))
        return value

    def write32(self, offset: int, value: int) -> None:
        """See ``hal.OverlayTransport.write32``."""
        self._registers.write(_register(offset), value)
        if offset == self._control:
            self._enabled = value & (INTERRUPT_ENABLE | SOFT_RESET) == INTERRUPT_ENABLE

    def allocate(self, nbytes: int) -> PynqBuffer:
        """See ``hal.OverlayTransport.allocate``."""
        self._registers  # noqa: B018  # DeviceLost after close
        if nbytes < 1:
            raise ValueError(f"a buffer has at least one byte, not {nbytes}")
        try:
            memory = self._pynq.allocate((-(-nbytes // PAGE) * PAGE,), "u1", target=self._overlay.device)
        except (RuntimeError, MemoryError, OSError) as error:
            raise DeviceError(
                f"no memory for {nbytes} contiguous bytes: {one_line(error)}; raise the kernel's cma=, or load "
                "fewer models"
            ) from error
        if memory.device_address % PAGE:
            memory.freebuffer()
            raise DeviceError(
                f"contiguous memory lies at {memory.device_address:#x}, not at a multiple of {PAGE}"
            )
        buffer = PynqBuffer(memory, nbytes, self._buffers)
        self._buffers.add(buffer)
        return buffer

    def wait(self, timeout_s: float) -> bool:
        """See ``hal.OverlayTransport.wait``. STATUS has the last word; the interrupt only saves looking at it."""
        deadline, pause = time.monotonic() + timeout_s, FIRST_PAUSE_S
        while not (self._enabled and self.read32(self._status) & FINISHED):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._interrupt is not None:
                _wait_for(self._interrupt, min(left, RECHECK_S))
            else:
                time.sleep(min(left, pause))
                pause = min(1.5 * pause, LAST_PAUSE_S)
        return True

    def give_way(self) -> None:
        """See ``hal.OverlayTransport.give_way``: there is nobody else."""

    def compute_ends(self) -> Sequence[int]:
        """See ``hal.OverlayTransport.compute_ends``: the hardware counts no layers."""
        return ()

    def reload(self, folder: Path) -> None:
        """See ``hal.ReloadableTransport.reload``."""
        self._load(folder)

    def close(self) -> None:
        """See ``hal.OverlayTransport.close``. Memory that the core may still write to is not given back."""
        if self._buffers and (self._mapped is None or not self._stop()):
            log.error("the core does not stop: its memory stays reserved until another overlay is loaded")
            _held.extend(buffer.release() for buffer in list(self._buffers))
        for buffer in list(self._buffers):
            buffer.close()
        self._mapped = self._interrupt = self._overlay = None

    def _stop(self) -> bool:
        """True when the core has come to rest: a soft reset stays busy until the last transfer has ended."""
        deadline = time.monotonic() + STOP_S
        self.write32(self._control, SOFT_RESET)
        while self.read32(self._status) & BUSY:
            if time.monotonic() > deadline:
                return False
            time.sleep(FIRST_PAUSE_S)
        return True


class PynqBuffer:
    """See ``hal.Buffer``. ``memory``: uint8 [nbytes, rounded up to pages], kept coherent by flush and invalidate."""

    def __init__(self, memory: Any, nbytes: int, owner: set[PynqBuffer]) -> None:
        self._memory = memory
        self._owner = owner
        self.address = int(memory.device_address)
        self.nbytes = nbytes

    def write(self, offset: int, data: bytes) -> None:
        """See ``hal.Buffer.write``."""
        part = self._part(offset, len(data))
        memoryview(part)[:] = data
        part.flush()

    def read(self, offset: int, nbytes: int) -> bytes:
        """See ``hal.Buffer.read``."""
        part = self._part(offset, nbytes)
        part.invalidate()
        return bytes(memoryview(part))

    def close(self) -> None:
        """See ``hal.Buffer.close``."""
        if self in self._owner:
            self.release().freebuffer()

    def release(self) -> Any:
        """Take the memory out of this buffer without freeing it."""
        memory, self._memory = self._memory, None
        self._owner.discard(self)
        return memory

    def _part(self, offset: int, nbytes: int) -> Any:
        if self._memory is None:
            raise ValueError("the buffer is closed")
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} are not in a buffer of {self.nbytes}")
        return self._memory[offset : offset + nbytes]


def drop_metadata(pynq: Any) -> None:
    """Remove what pynq remembers of the last bitstream, so that the new one's .hwh is read.

    pynq 4.0 writes two files next to ``pynq/pl_server/*.py``: global_pl_state_*.json (a hash of the last .bit) and
    _current_metadata.pkl (its parsed .hwh). It takes the pickle whenever the hash is that of the .bit to load, also
    when the .hwh is another one by now or when the two files are of different loads: registers then have the address
    that they had in another design, and an access there can stop the whole chip (PYNQ issues 1409 and 1652).
    """
    folder = Path(pynq.pl_server.__file__).parent
    for path in (*folder.glob("global_pl_state*.json"), folder / "_current_metadata.pkl"):
        path.unlink(missing_ok=True)


def _import_pynq() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports pkg_resources, which warns
            import pynq
            import pynq.pl_server
    except ImportError as error:
        raise RuntimeUnavailable(
            f"PYNQ cannot be imported ({one_line(error)}); on a board with a PYNQ image: pip install 'overlaid[fpga]' "
            "in the image's own environment"
        ) from error
    return pynq


def _device(pynq: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says it
            return pynq.Device.active_device
    except Exception as error:  # whatever a device's probing raises
        raise RuntimeUnavailable(
            f"PYNQ finds no FPGA: {one_line(error)}; is this a board with a PYNQ image, and XILINX_XRT set (to /usr)?"
        ) from error


def _load(pynq: Any, bitstream: Path, spec: Overlay) -> Any:
    try:
        drop_metadata(pynq)
        overlay = pynq.Overlay(str(bitstream), download=False)
        for clock in overlay.clock_dict.values():
            if clock.get("enable") and clock.get("frequency") is None:
                # pynq 4.0 looks for the UltraScale's name of it on a Zynq-7000, too, and fails on the None
                clock["frequency"] = spec.clock.hz / 1e6
        overlay.download()
    except PermissionError as error:
        raise RuntimeUnavailable(_needs_root(error)) from error
    except Exception as error:  # pynq raises what its parsers and the kernel's FPGA manager do
        if "Root permissions" in str(error):
            raise RuntimeUnavailable(_needs_root(error)) from error
        raise OverlayLoadError(
            f"{bitstream} cannot be loaded: {type(error).__name__}: {one_line(error)}; see dmesg, and whether it is "
            "built for this board"
        ) from error
    _held.clear()
    return overlay


def _needs_root(error: Exception) -> str:
    return (
        f"loading a bitstream needs root ({one_line(error)}): start overlaid-fpga.service and use the transport "
        "'remote'"
    )


def _core(overlay: Any) -> tuple[str, dict[str, Any]]:
    """Name and description of the core in the block design: the block of type npu_*."""
    blocks = overlay.ip_dict
    found = [name for name, block in blocks.items() if _is_core(str(block.get("type")))]
    if len(found) != 1:
        raise OverlayLoadError(
            f"{overlay.bitfile_name}: one block of type npu is needed, there are {len(found)} among: "
            f"{', '.join(sorted(blocks)) or 'none'}"
        )
    block = blocks[found[0]]
    if block["addr_range"] < REGISTER_BYTES:
        raise OverlayLoadError(
            f"{overlay.bitfile_name}: {found[0]} has {block['addr_range']} bytes of registers, "
            f"not {REGISTER_BYTES}"
        )
    return found[0], block


def _is_core(block_type: str) -> bool:
    """``vendor:library:name:version``."""
    parts = block_type.split(":")
    return len(parts) == 4 and parts[2].startswith("npu")


def _interrupt(pynq: Any, overlay: Any, core: str) -> Any:
    """The core's interrupt, which needs an axi_intc between it and the processor; None: STATUS is looked at instead."""
    pin = f"{core}/irq"
    if pin not in overlay.interrupt_pins:
        return None
    asyncio.set_event_loop(_loop())
    try:
        return pynq.Interrupt(pin)
    except (OSError, ValueError) as error:  # the kernel has no UIO device for it
        log.warning("no interrupt (%s): the core's status is polled", one_line(error))
        return None


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for the process: pynq opens a UIO device once, on the loop that is there at the time."""
    return asyncio.new_event_loop()


def _wait_for(interrupt: Any, seconds: float) -> None:
    async def wait() -> None:
        await asyncio.wait({asyncio.ensure_future(interrupt.wait())}, timeout=seconds)

    _loop().run_until_complete(wait())


def _register(offset: int) -> int:
    if not 0 <= offset < REGISTER_BYTES or offset % 4:
        raise ValueError(f"there is no register at {offset:#x}")
    return offset
