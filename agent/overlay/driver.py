"""The driver of an overlay: one and the same code on a board, on the Verilated RTL and on the functional model.

Time limits are counted in the overlay's own cycles (register CYCLES), so that they mean the same at 100 MHz and in a
simulation that is hundreds of times slower.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from agent.errors import (
    DeviceError,
    DmaTimeout,
    InferenceError,
    OverlayFault,
    OverlayHung,
    OverlayLoadError,
    OverlayTaken,
)
from agent.hal import OverlayTransport
from agent.overlay.chain import Chain, check_program, layer_at
from agent.overlay.program import Program, Segment
from agent.overlay.regions import Arrays, SegmentMemory
from agent.overlay.spec import ID, Overlay

START, RESET, INTERRUPT = 1, 2, 4  # CONTROL
BUSY, DONE, ERROR = 1, 2, 4  # STATUS
WAIT_S = 0.25  # between looks at an overlay that has not interrupted
RESET_READS = 100  # of STATUS, before a reset is waited for
TAKES = 4  # of an overlay that other processes use as well, for one inference; one is enough but for a stalled machine
DEAD_S = 2.0  # an overlay whose cycle counter stands still for so long is dead
WORD = 0xFFFFFFFF
ADVICE = {
    "OPCODE": "the program is corrupt: deploy it again",
    "BOUNDS": "the program leaves its memory: compile it again for this overlay",
    "TILE": "a tile is larger than the overlay's buffers: compile the program again for this overlay",
    "AXI": "the memory refused an access: load the overlay again",
    "WATCHDOG": "its descriptors wait for each other: compile the program again, or load the overlay again",
}


@dataclass(frozen=True, slots=True)
class Counters:
    """What a chain took, in cycles of the overlay's clock, and the 8-byte beats that it moved. See overlay.toml."""

    cycles: int
    issue_cycles: int
    wait_cycles: int
    drain_cycles: int
    weight_cycles: int
    load_cycles: int
    store_cycles: int
    read_beats: int
    write_beats: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """``outputs`` as the source model holds them. ``compute_ends``: see ``hal.OverlayTransport``. ``host_s``: wall time
    of packing and unpacking."""

    outputs: dict[str, NDArray[Any]]
    counters: Counters
    compute_ends: tuple[int, ...]
    host_s: float


class Driver:
    """An overlay that is loaded, and the programs on it. Not thread-safe."""

    def __init__(self, transport: OverlayTransport, spec: Overlay) -> None:
        """OverlayLoadError when what answers is not the overlay of ``spec``."""
        self.spec = spec
        self._transport = transport
        self._check_identity()
        self._programs: list[LoadedProgram] = []
        self._present: SegmentMemory | None = None  # whose regions are set and whose weights are on the chip
        self._reset()

    def load(self, program: Program) -> LoadedProgram:
        """Give a program its memory. ProgramError, before anything is written, when it is not for this overlay."""
        chains = check_program(program, self.spec)
        segments: list[SegmentMemory] = []
        try:
            for segment, both in chains:
                segments.append(SegmentMemory(segment, both, self._transport, self.spec.lanes))
        except BaseException:
            for memory in segments:
                memory.close()
            raise
        loaded = LoadedProgram(self, program, segments)
        self._programs.append(loaded)
        return loaded

    def unload(self, program: LoadedProgram) -> None:
        """Free a program's memory; harmless when that has been done."""
        if program not in self._programs:
            return
        self._programs.remove(program)
        for memory in program.segments:
            if self._present is memory:
                self._present = None
            memory.close()

    def close(self) -> None:
        """Let go of the overlay, and with it of every program's memory."""
        self._programs.clear()
        self._present = None
        self._transport.close()

    def run(self, memory: SegmentMemory) -> tuple[Counters, tuple[int, ...]]:
        """Run a segment whose inputs are in place; take the overlay first when another one ran before.

        Raises OverlayFault, OverlayHung, DmaTimeout or DeviceLost, and resets the overlay: it can be tried again.
        OverlayTaken when other processes take it again and again.
        """
        for _ in range(TAKES - 1):
            with contextlib.suppress(OverlayTaken):
                return self._run(memory)
        return self._run(memory)

    def _run(self, memory: SegmentMemory) -> tuple[Counters, tuple[int, ...]]:
        try:
            if self._present is not memory:
                self._take(memory)
            self._run_chain(memory, memory.chain)
            return self._counters(), tuple(self._transport.compute_ends())
        except OverlayTaken:  # nothing of ours runs: there is nothing to reset
            self._present = None
            raise
        except BaseException:
            self._present = None
            with contextlib.suppress(DeviceError):  # the next run resets again, and says so when that fails
                self._reset()
            raise

    def _take(self, memory: SegmentMemory) -> None:
        self._present = None
        self._reset()
        for number, buffer in enumerate(memory.regions):
            address, nbytes = (buffer.address, buffer.nbytes) if buffer else (0, 0)
            self._write(f"REGION{number}_LOW", address & WORD)
            self._write(f"REGION{number}_HIGH", address >> 32)
            self._write(f"REGION{number}_BYTES", nbytes)
        if memory.resident is not None:
            self._run_chain(memory, memory.resident)
        self._present = memory

    def _run_chain(self, memory: SegmentMemory, chain: Chain) -> None:
        self._write("CHAIN", chain.offset)
        self._write("WATCHDOG", chain.limit)
        self._write("CONTROL", START | INTERRUPT)
        self._await_end(2 * chain.limit)  # the core's own watchdog comes first
        status = self._read("STATUS")
        self._write("STATUS", DONE | ERROR)
        if status & ERROR:
            raise self._fault(memory, chain, status >> 8 & 0xFF)

    def _await_end(self, limit: int) -> None:
        before, still_s = -1, 0.0
        while not self._transport.wait(WAIT_S) and self._read("STATUS") & BUSY:
            now = self._read("CYCLES")
            still_s = still_s + WAIT_S if now == before else 0.0
            if now > limit or still_s >= DEAD_S:
                raise self._hung(now)
            before = now

    def _reset(self) -> None:
        """As after power-on. A core that cannot end its transfers stays busy."""
        self._write("CONTROL", RESET)
        for _ in range(RESET_READS):
            if not self._read("STATUS") & BUSY:
                return
        self._transport.wait(WAIT_S)
        if not self._read("STATUS") & BUSY:
            return
        raise OverlayHung(f"{self._name} is busy after a reset; load the overlay again")

    def _hung(self, cycles: int) -> DeviceError:
        before = self._transfers()
        self._transport.wait(WAIT_S)
        if self._transfers() != before:
            return self._dma_timeout(cycles)
        return OverlayHung(
            f"{self._name} has not ended after {cycles} cycles; it is reset, try again, and load the overlay again "
            "if that does not help"
        )

    def _dma_timeout(self, cycles: int) -> DmaTimeout:
        return DmaTimeout(
            f"a transfer of {self._name} did not end within {cycles} cycles; it is reset, try again, and load the "
            "overlay again if that does not help"
        )

    def _fault(self, memory: SegmentMemory, chain: Chain, code: int) -> DeviceError:
        name = next((name for name, value in self.spec.errors.items() if value == code), f"code {code}")
        if name == "WATCHDOG" and max(self._transfers()) > chain.limit // 2:
            return self._dma_timeout(chain.limit)
        index = self._read("ERROR_INDEX")
        opcode = chain.opcodes[index] if index < len(chain.opcodes) else "beyond the chain"
        layer = layer_at(memory.segment, chain, index)
        return OverlayFault(
            f"{self._name} stopped with error {name} at descriptor {index} ({opcode}{', ' + layer if layer else ''}): "
            f"{ADVICE.get(name, 'load the overlay again')}"
        )

    def _transfers(self) -> tuple[int, int]:
        return self._read("LOAD_CYCLES"), self._read("STORE_CYCLES")

    def _counters(self) -> Counters:
        return Counters(*(self._read(name.upper()) for name in Counters.__dataclass_fields__))

    def _check_identity(self) -> None:
        spec, memory = self.spec, self.spec.memory
        wanted = {
            "ID": ID, "VERSION": spec.version, "ARRAY": spec.lanes, "CLOCK_HZ": spec.clock.hz,
            "ACTIVATION_WORDS": memory.activation_words, "WEIGHT_ROWS": memory.weight_rows,
            "ACCUMULATORS": memory.accumulators, "LINE_WORDS": memory.line_words,
        }  # fmt: skip
        for name, value in wanted.items():
            found = self._read(name)
            if found != value:
                raise OverlayLoadError(
                    f"{self._name}: register {name} reads 0x{found:X} instead of 0x{value:X}; the bitstream is not of "
                    "this overlay.toml: deploy the overlay's package again"
                )

    @property
    def _name(self) -> str:
        return f"overlay {self.spec.id} version {self.spec.version}"

    def _read(self, name: str) -> int:
        return self._transport.read32(self.spec.register(name))

    def _write(self, name: str, value: int) -> None:
        self._transport.write32(self.spec.register(name), value)


class LoadedProgram:
    """A program that has its memory. ``close`` it, or the driver."""

    def __init__(self, driver: Driver, program: Program, segments: Sequence[SegmentMemory]) -> None:
        self.program, self.segments = program, tuple(segments)
        self._driver = driver
        self._by_id = {id(memory.segment): memory for memory in segments}

    def run(self, segment: Segment, tensors: Arrays) -> SegmentRun:
        """One inference of one of the program's segments.

        Raises TensorError, and what ``Driver.run`` raises.
        """
        memory = self._by_id[id(segment)]
        if not memory.regions:
            raise InferenceError(f"program {self.program.name} has been unloaded; load it again")
        started = time.perf_counter()
        memory.write_inputs(tensors)
        packed = time.perf_counter()
        counters, ends = self._driver.run(memory)
        ran = time.perf_counter()
        outputs = memory.read_outputs()
        return SegmentRun(outputs, counters, ends, packed - started + time.perf_counter() - ran)

    def close(self) -> None:
        """Free its memory."""
        self._driver.unload(self)
