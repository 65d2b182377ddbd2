"""The driver of an overlay: one and the same code on a board, on the Verilated RTL and on the functional model.

A run is started and waited for apart, so that there is time for the next one's inputs and the last one's outputs.
Time limits are counted in the overlay's own cycles (register CYCLES), so that they mean the same at 100 MHz and in a
simulation that is hundreds of times slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from agent.errors import DeviceError, InferenceError, OverlayHung, OverlayLoadError, OverlayTaken
from agent.hal import OverlayTransport
from agent.overlay import failures
from agent.overlay.chain import Chain, check_program
from agent.overlay.counters import Counters, Ended, SegmentRun
from agent.overlay.program import Program, Segment
from agent.overlay.regions import Arrays, HostTimes, SegmentMemory
from agent.overlay.spec import ID, Overlay

START, RESET, INTERRUPT = 1, 2, 4  # CONTROL
BUSY, DONE, ERROR = 1, 2, 4  # STATUS
WAIT_S = 0.25  # between looks at an overlay that has not interrupted
RESET_READS = 100  # of STATUS, before a reset is waited for
TAKES = 4  # of an overlay that other processes use as well, for one inference; one is enough but for a stalled machine
DEAD_S = 2.0  # an overlay whose cycle counter stands still for so long is dead
WORD = 0xFFFFFFFF
BANKS = 2  # of a program that takes batches: one sample is computed, its neighbours are packed and unpacked


class Driver:
    """An overlay that is loaded, and the programs on it. Not thread-safe."""

    def __init__(self, transport: OverlayTransport, spec: Overlay) -> None:
        """OverlayLoadError when what answers is not the overlay of ``spec``."""
        self.spec = spec
        self._transport = transport
        self._check_identity()
        self._programs: list[LoadedProgram] = []
        self._present: SegmentMemory | None = None  # whose weights are on the chip,
        self._bank = 0  # whose regions are set,
        self._running: SegmentMemory | None = None  # and whose chain was started and not waited for
        self._resident_cycles = 0  # before that
        self._reset()

    def load(self, program: Program) -> LoadedProgram:
        """Give a program its memory. ProgramError, before anything is written, when it is not for this overlay."""
        chains = check_program(program, self.spec)
        banks = BANKS if any(spec.dynamic for spec in program.inputs) else 1
        segments: list[SegmentMemory] = []
        try:
            for segment, both in chains:
                segments.append(SegmentMemory(segment, both, self._transport, self.spec.lanes, banks))
        except BaseException:
            for memory in segments:
                memory.close()
            raise
        loaded = LoadedProgram(self, program, segments, banks)
        self._programs.append(loaded)
        return loaded

    def unload(self, program: LoadedProgram) -> None:
        """Free a program's memory; harmless when that has been done. What ``abandon`` raises, when it runs."""
        if program not in self._programs:
            return
        if self._running in program.segments:
            self.abandon()
        self._programs.remove(program)
        for memory in program.segments:
            if self._present is memory:
                self._present = None
            memory.close()

    def close(self) -> None:
        """Let go of the overlay, and with it of every program's memory."""
        self._programs.clear()
        self._present = self._running = None
        self._transport.close()

    def start(self, memory: SegmentMemory, bank: int = 0) -> None:
        """Start a segment whose inputs are in place; take the overlay first when another one ran before.

        A run that was started before and not waited for is given up. Raises OverlayFault, OverlayHung, DmaTimeout or
        DeviceLost, and resets the overlay: it can be tried again. OverlayTaken when other processes take it again and
        again.
        """
        self.abandon()
        for _ in range(TAKES - 1):
            with contextlib.suppress(OverlayTaken):
                return self._start(memory, bank)
        return self._start(memory, bank)

    def wait(self) -> Ended:
        """Wait until what was started has ended. Raises what ``start`` raises, InferenceError when nothing runs."""
        memory, self._running = self._running, None
        if memory is None:
            raise InferenceError("nothing runs on the overlay; start a segment first")
        with self._resetting():
            self._await_chain(memory, memory.chain)
            return Ended(self._counters(), tuple(self._transport.compute_ends()), self._resident_cycles)

    def abandon(self) -> None:
        """Stop what was started and not waited for. OverlayHung or DeviceLost when it does not stop."""
        running, self._running = self._running, None
        if running is not None:
            self._present = None
            self._reset()

    def _start(self, memory: SegmentMemory, bank: int) -> None:
        with self._resetting():
            if self._present is not memory:
                self._take(memory, bank)
            else:
                self._transport.give_way()
                if self._bank != bank:
                    self._set_regions(memory, bank)
                self._resident_cycles = 0
            self._begin_chain(memory.chain)
        self._running = memory

    @contextlib.contextmanager
    def _resetting(self) -> Iterator[None]:
        try:
            yield
        except OverlayTaken:  # nothing of ours runs: there is nothing to reset
            self._present = None
            raise
        except BaseException:
            self._present = None
            with contextlib.suppress(DeviceError):  # the next run resets again, and says so when that fails
                self._reset()
            raise

    def _take(self, memory: SegmentMemory, bank: int) -> None:
        self._present, self._resident_cycles = None, 0
        self._reset()
        self._set_regions(memory, bank)
        if memory.resident is not None:
            self._begin_chain(memory.resident)
            self._await_chain(memory, memory.resident)
            self._resident_cycles = self._read("CYCLES")
        self._present = memory

    def _set_regions(self, memory: SegmentMemory, bank: int) -> None:
        self._bank = bank
        for number, buffer in enumerate(memory.regions(bank)):
            address, nbytes = (buffer.address, buffer.nbytes) if buffer else (0, 0)
            self._write(f"REGION{number}_LOW", address & WORD)
            self._write(f"REGION{number}_HIGH", address >> 32)
            self._write(f"REGION{number}_BYTES", nbytes)

    def _begin_chain(self, chain: Chain) -> None:
        self._write("CHAIN", chain.offset)
        self._write("WATCHDOG", chain.limit)
        self._write("CONTROL", START | INTERRUPT)

    def _await_chain(self, memory: SegmentMemory, chain: Chain) -> None:
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
        moved = self._transfers() != before
        return failures.dma_timeout(self.spec, cycles) if moved else failures.hung(self.spec, cycles)

    def _fault(self, memory: SegmentMemory, chain: Chain, code: int) -> DeviceError:
        name = failures.error_name(self.spec, code)
        if name == "WATCHDOG" and max(self._transfers()) > chain.limit // 2:
            return failures.dma_timeout(self.spec, chain.limit)
        return failures.fault(self.spec, memory.segment, chain, name, self._read("ERROR_INDEX"))

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
        return failures.name_of(self.spec)

    def _read(self, name: str) -> int:
        return self._transport.read32(self.spec.register(name))

    def _write(self, name: str, value: int) -> None:
        self._transport.write32(self.spec.register(name), value)


class LoadedProgram:
    """A program that has its memory. ``close`` it, or the driver.

    ``banks``: inferences that can be under way at a time, each with a bank of its own: one on the overlay, the others'
    tensors on their way there or back.
    """

    def __init__(
        self, driver: Driver, program: Program, segments: Sequence[SegmentMemory], banks: int = 1
    ) -> None:
        self.program, self.segments, self.banks = program, tuple(segments), banks
        self._driver = driver
        self._by_id = {id(memory.segment): memory for memory in segments}

    def run(self, segment: Segment, tensors: Arrays) -> SegmentRun:
        """One inference of one of the program's segments.

        Raises TensorError, and what ``Driver.start`` raises.
        """
        there = self.write(segment, tensors)
        self.start(segment)
        ended = self.wait()
        outputs, back = self.read(segment)
        return SegmentRun(
            outputs, ended, HostTimes(there.pack_s + back.pack_s, there.transfer_s + back.transfer_s)
        )

    def write(self, segment: Segment, tensors: Arrays, bank: int = 0) -> HostTimes:
        """Put a segment's inputs into a bank that nothing runs in. TensorError."""
        return self._memory(segment).write_inputs(tensors, bank)

    def start(self, segment: Segment, bank: int = 0) -> None:
        """Start a segment on what its bank holds; see ``Driver.start``."""
        self._driver.start(self._memory(segment), bank)

    def wait(self) -> Ended:
        """Wait until it has ended; see ``Driver.wait``."""
        return self._driver.wait()

    def read(self, segment: Segment, bank: int = 0) -> tuple[dict[str, NDArray[Any]], HostTimes]:
        """What a segment left in a bank."""
        return self._memory(segment).read_outputs(bank)

    def abandon(self) -> None:
        """See ``Driver.abandon``."""
        self._driver.abandon()

    def seconds(self, ended: Ended) -> float:
        """Of the overlay's clock."""
        return (ended.counters.cycles + ended.resident_cycles) / self._driver.spec.clock.hz

    def close(self) -> None:
        """Free its memory."""
        self._driver.unload(self)

    def _memory(self, segment: Segment) -> SegmentMemory:
        memory = self._by_id[id(segment)]
        if not memory.loaded:
            raise InferenceError(f"program {self.program.name} has been unloaded; load it again")
        return memory
