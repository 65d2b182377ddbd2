"""A PYNQ-Z2 that is not there: a ``pynq.Device`` whose FPGA is one of the simulated overlays.

What pynq does above the kernel runs unmodified: bit and hardware-handoff parsing, its metadata cache, clocks, Overlay,
MMIO, allocate, Interrupt. Replaced is what needs a Zynq: /dev/mem (``mmap``), the FPGA manager (``download``), XRT
(``get_memory``, ``flush``, ``invalidate``; and xclbinutil by a script) and the UIO device of the interrupt.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pynq import interrupt
from pynq.buffer import PynqBuffer
from pynq.pl_server.device import Device
from pynq.pl_server.embedded_device import EmbeddedDevice, parse_bit_header

from agent.hal import Buffer, ReloadableTransport
from agent.overlay.spec import overlay_folder
from agent.overlay.transports import find_transport
from tests.pynq.handoff import INTC_BASE, read_payload

SLCR_BASE, IO_PLL_CTRL = 0xF800_0000, 0x108
RAW_IRQ = 61  # IRQ_F2P[0]
UNFLUSHED = 0xEE
SLICE_S = 0.05


class Board(EmbeddedDevice):  # type: ignore[misc]  # pynq has no types
    """``core``: the transport (functional, rtl) that simulates what a downloaded bitstream holds."""

    _probe_priority_ = 1  # before those of real hardware
    present: Board | None = None

    @classmethod
    def _probe_(cls) -> list[Board]:
        return [cls.present] if cls.present is not None else []

    def __init__(self, core: str) -> None:
        Device.__init__(self, "board")
        self.capabilities = {"MEMORY_MAPPED": True}
        self.arch = "armv7l"
        self.core_name = core
        self.core: ReloadableTransport | None = None
        self.base = 0
        self.slcr = np.zeros(0x80, np.uint32)
        self.slcr[IO_PLL_CTRL // 4] = 20 << 12  # x 50 MHz
        self.controller = np.zeros(16, np.uint32)
        self.refusal: Exception | None = None  # what the kernel answers
        interrupt._InterruptController._uio_devices[RAW_IRQ] = Uio(self)

    @property
    def name(self) -> str:
        return "pynq-z2"

    def download(self, bitstream: Any, parser: Any = None) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.gen_cache(bitstream, parser)
        data = parse_bit_header(Path(bitstream.bitfile_name).read_bytes())["data"]
        overlay, self.base = read_payload(data)
        if self.core is not None:
            self.core.reload(overlay_folder(overlay))  # the memory is not the FPGA's: it stays
        else:
            core = find_transport(self.core_name)(overlay_folder(overlay))
            assert isinstance(core, ReloadableTransport)
            self.core = core
        Device.post_download(self, bitstream, parser, self.name)

    def close(self) -> None:
        if self.core is not None:
            self.core.close()
            self.core = None

    def mmap(self, base_addr: int, length: int) -> Any:
        if base_addr == SLCR_BASE:
            return self.slcr
        if base_addr == INTC_BASE:
            return self.controller
        if base_addr == self.base:
            return Registers(self)
        raise AssertionError(f"nothing answers at {base_addr:#x}: a real chip would hang now")

    def get_memory(self, description: Any) -> Memory:
        return Memory(self)

    def flush(self, bo: Bo, offset: int, ptr: int, size: int) -> None:
        bo.far.write(offset, bo.near[offset : offset + size].tobytes())

    def invalidate(self, bo: Bo, offset: int, ptr: int, size: int) -> None:
        bo.near[offset : offset + size] = np.frombuffer(bo.far.read(offset, size), np.uint8)


class Registers:
    """What /dev/mem maps: 32-bit words."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __getitem__(self, index: int) -> int:
        assert self._board.core is not None
        value = self._board.core.read32(4 * index)
        if 4 * index == 0x24 and value & 1:  # time passes while STATUS says busy
            self._board.core.wait(SLICE_S)
        return value

    def __setitem__(self, index: int, value: int) -> None:
        assert self._board.core is not None
        self._board.core.write32(4 * index, int(value))


class Bo:
    """A buffer object: what the processor's cache holds and what the memory holds."""

    def __init__(self, far: Buffer, nbytes: int) -> None:
        self.far = far
        self.near: NDArray[np.uint8] = np.full(nbytes, UNFLUSHED, np.uint8)


class Memory:
    """The processing system's DDR, as pynq's allocate sees it."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def allocate(self, shape: tuple[int, ...], dtype: str, **_: object) -> PynqBuffer:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if nbytes > 128 << 20:
            raise RuntimeError("BO allocation failed: Cannot allocate memory")
        assert self._board.core is not None
        bo = Bo(self._board.core.allocate(nbytes), nbytes)
        buffer = PynqBuffer(shape, dtype, device=self._board, device_address=bo.far.address, bo=bo,
                            coherent=False, buffer=bo.near.data)  # fmt: skip
        buffer.memory, buffer.pointer, buffer.return_to = self, bo, self
        buffer.freed = True  # of the mapping that XRT would have made
        return buffer

    def return_pointer(self, bo: Bo) -> None:
        bo.far.close()


class Uio:
    """The UIO device of IRQ_F2P[0]: pynq's interrupt controller hangs its events on it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.waits = 0

    def add_event(self, event: Any, number: int) -> None:
        self.waits += 1
        asyncio.get_running_loop().call_soon(self._look, event)

    def _look(self, event: Any) -> None:
        core = self._board.core
        if core is not None and core.wait(SLICE_S):
            self._board.controller[1] = 1  # IPR: pending
            event.set()
        else:
            asyncio.get_running_loop().call_later(0.001, self._look, event)
