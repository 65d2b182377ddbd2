"""The overlay as its instruction set says, without time: registers, descriptor queues, semaphores and errors.

``LOAD``, ``STORE`` and compute descriptors go to three queues in chain order; which queue is served first is for the
caller to choose, because a chain that waits where it must gives the same bytes in any order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from agent.overlay.cycles import ChainCycles, chain_cycles
from agent.overlay.descriptor import decode
from agent.overlay.spec import DESCRIPTOR_BYTES, ID, Overlay
from simulator.overlay.datapath import CoreError, Datapath, Descriptor, Values
from simulator.overlay.memory import Bytes, Memory, strided

QUEUE_DEPTH = 8
SEMAPHORES = 8
BEAT = 8  # bytes
START, RESET, INTERRUPT = 1, 2, 4
BUSY, DONE, ERROR = 1, 2, 4
LOAD, COMPUTE, STORE = range(3)
WORD = 0xFFFFFFFF
ALIGNED = WORD & -DESCRIPTOR_BYTES
PREFETCHED = (
    32  # descriptors after END that are fetched in vain, where the region has as many; no more than that
)
MAX_KNOWN = 1024  # decoded descriptors, modelled chains


class Machine:
    """One core, reached as its registers are."""

    def __init__(self, spec: Overlay, memory: Memory, order: Sequence[int] = (LOAD, COMPUTE, STORE)) -> None:
        """``order``: which of the queues that could go on goes first."""
        self.spec, self.memory, self._order = spec, memory, tuple(order)
        self._datapath = Datapath(spec)
        self._names = {register.offset: name for name, register in spec.registers.items()}
        self._decoded: dict[bytes, Values] = {}
        self._modelled: dict[bytes, ChainCycles] = {}
        self.compute_ends: Sequence[int] = ()
        self._registers = reset_values(spec)

    def read32(self, offset: int) -> int:
        """A register; 0 where there is none."""
        return self._registers.get(self._names.get(offset, ""), 0)

    def write32(self, offset: int, value: int) -> None:
        """Set a register that can be written; starting runs the chain to its end."""
        name = self._names.get(offset, "")
        if name == "CONTROL":
            self._registers[name] = value & INTERRUPT
            if value & RESET:
                self._registers = reset_values(self.spec)
            elif value & START and not self._registers["STATUS"] & ERROR:
                self._start()
        elif name == "STATUS":
            self._registers[name] &= ~(value & DONE)
        elif name and self.spec.registers[name].access == "rw":
            aligned = name == "CHAIN" or name.endswith("_LOW")
            self._registers[name] = value & WORD & (ALIGNED if aligned else WORD)

    @property
    def interrupt(self) -> bool:
        """The level of the interrupt line."""
        enabled = self._registers["CONTROL"] & INTERRUPT
        return bool(enabled and self._registers["STATUS"] & (DONE | ERROR))

    def _start(self) -> None:
        counters = ("CYCLES", "ISSUE_CYCLES", "WAIT_CYCLES", "DRAIN_CYCLES", "WEIGHT_CYCLES", "LOAD_CYCLES",
                    "STORE_CYCLES", "READ_BEATS", "WRITE_BEATS", "DESCRIPTORS", "STATUS", "ERROR_INDEX")  # fmt: skip
        self._registers.update(dict.fromkeys(counters, 0))
        self.compute_ends = ()
        run = ChainRun(self, self._registers["CHAIN"])
        try:
            run.to_end(self._order)
        except CoreError as error:
            self._registers["STATUS"] = ERROR | self.spec.errors[error.name] << 8
            self._registers["ERROR_INDEX"] = run.index
            return
        self._registers["STATUS"] = DONE
        left = self._registers["REGION0_BYTES"] - self._registers["CHAIN"] - len(run.chain)
        modelled = self._model(
            run.chain + bytes(min(left // DESCRIPTOR_BYTES, PREFETCHED) * DESCRIPTOR_BYTES)
        )
        self.compute_ends = modelled.compute_ends
        self._registers.update(
            CYCLES=modelled.total,
            ISSUE_CYCLES=sum(each.issue for each in modelled.computes),
            WAIT_CYCLES=sum(each.wait for each in modelled.computes),
            DRAIN_CYCLES=sum(each.drain for each in modelled.computes),
            WEIGHT_CYCLES=sum(each.weights for each in modelled.computes),
        )

    def _model(self, chain: bytes) -> ChainCycles:
        known = self._modelled.get(chain)
        if known is None:
            known = chain_cycles(self.spec, chain)
            _keep(self._modelled, chain, known)
        return known

    def decode(self, data: bytes) -> Values:
        """The fields of a descriptor."""
        known = self._decoded.get(data)
        if known is None:
            known = decode(self.spec, data)
            _keep(self._decoded, data, known)
        return known

    def execute(self, descriptor: Descriptor) -> None:
        """Execute one descriptor that is no END. Raises CoreError."""
        codes = self.spec.opcodes
        if descriptor.v["opcode"] == codes["LOAD"]:
            self._transfer(descriptor.v, "READ_BEATS", load=True)
        elif descriptor.v["opcode"] == codes["STORE"]:
            self._transfer(descriptor.v, "WRITE_BEATS", load=False)
        else:
            self._datapath.run(descriptor)
        self.count("DESCRIPTORS", 1)

    def count(self, counter: str, by: int) -> None:
        """Add to a counter."""
        self._registers[counter] += by

    def _transfer(self, v: Values, beats: str, *, load: bool) -> None:
        lanes = self.spec.lanes
        weights = load and v["flags"] & self.spec.flags["WEIGHTS"]
        on_chip = self._datapath.weights if weights else self._datapath.activations
        chip = on_chip.reshape(-1).view("u1")
        last = v["runs"] - 1
        if last < 0 or not v["words"] or v["offset"] % BEAT or v["region_step"] % BEAT:
            raise CoreError("BOUNDS")
        if (v["chip"] + last * v["chip_step"] + v["words"]) * lanes > chip.size:
            raise CoreError("BOUNDS")
        nbytes = v["words"] * lanes
        span = last * v["region_step"] + nbytes
        outside = strided(self.region(v["region"], v["offset"], span), 0, v["runs"], v["region_step"], nbytes)
        inside = strided(chip, v["chip"] * lanes, v["runs"], v["chip_step"] * lanes, nbytes)
        if load:
            inside[:] = outside
        else:
            outside[:] = inside
        self.count(beats, v["runs"] * nbytes // BEAT)

    def region(self, number: int, offset: int, nbytes: int) -> Bytes:
        """Bytes of a region. CoreError: BOUNDS outside it, AXI where no memory is."""
        registers = self._registers
        if offset + nbytes > registers[f"REGION{number}_BYTES"]:
            raise CoreError("BOUNDS")
        start = registers[f"REGION{number}_HIGH"] << 32 | registers[f"REGION{number}_LOW"]
        found = self.memory.at(start + offset, nbytes)
        if found is None:
            raise CoreError("AXI")
        return found


def reset_values(spec: Overlay) -> dict[str, int]:
    """Every register, by name."""
    return dict.fromkeys(spec.registers, 0) | {
        "ID": ID, "VERSION": spec.version, "ARRAY": spec.lanes, "CLOCK_HZ": spec.clock.hz,
        "ACTIVATION_WORDS": spec.memory.activation_words, "WEIGHT_ROWS": spec.memory.weight_rows,
        "ACCUMULATORS": spec.memory.accumulators, "LINE_WORDS": spec.memory.line_words,
        "WATCHDOG": spec.axi.watchdog_cycles,
    }  # fmt: skip


class ChainRun:
    """One walk through a chain. ``index``: the descriptor that is at work; ``chain``: what was fetched."""

    def __init__(self, machine: Machine, offset: int) -> None:
        self._machine, self._offset = machine, offset
        self.index = 0
        self.chain = b""
        codes = machine.spec.opcodes
        self._engines = {code: COMPUTE for code in codes.values()} | {
            codes["LOAD"]: LOAD, codes["STORE"]: STORE,
        }  # fmt: skip
        self._end = codes["END"]
        self._queues: tuple[deque[tuple[int, Descriptor]], ...] = (deque(), deque(), deque())
        self._semaphores = [0] * SEMAPHORES
        self._fetched = self._finished = 0
        self._next: Descriptor | None = None  # fetched and not dispatched

    def to_end(self, order: Sequence[int]) -> None:
        """Until END has been reached and all queues are empty. Raises CoreError; ``index`` says at which descriptor."""
        while True:
            at_end = self._dispatch()
            engine = next((engine for engine in order if self._ready(engine)), None)
            if engine is not None:
                self._step(engine)
            elif at_end and not any(self._queues):
                return
            else:
                self.index = self._finished
                raise CoreError("WATCHDOG")

    def _dispatch(self) -> bool:
        """Fill the queues in chain order. True when END is next."""
        while True:
            descriptor = self._next = self._next or self._fetch()
            if descriptor.v["opcode"] == self._end:
                return True
            queue = self._queues[self._engines[descriptor.v["opcode"]]]
            if len(queue) == QUEUE_DEPTH:
                return False
            queue.append((self._fetched - 1, descriptor))
            self._next = None

    def _fetch(self) -> Descriptor:
        self.index = self._fetched
        where = self._offset + self._fetched * DESCRIPTOR_BYTES
        data = self._machine.region(0, where, DESCRIPTOR_BYTES).tobytes()
        if data[0] not in self._engines:
            raise CoreError("OPCODE")
        self.chain += data
        self._machine.count("READ_BEATS", DESCRIPTOR_BYTES // BEAT)
        self._fetched += 1
        return Descriptor(data, self._machine.decode(data))

    def _ready(self, engine: int) -> bool:
        queue = self._queues[engine]
        if not queue:
            return False
        wait = queue[0][1].v["wait"]
        return all(count for bit, count in enumerate(self._semaphores) if wait >> bit & 1)

    def _step(self, engine: int) -> None:
        self.index, descriptor = self._queues[engine].popleft()
        self._count(descriptor.v["wait"], -1)
        self._machine.execute(descriptor)
        self._count(descriptor.v["signal"], 1)
        self._finished += 1

    def _count(self, mask: int, by: int) -> None:
        for bit in range(SEMAPHORES):
            if mask >> bit & 1:
                self._semaphores[bit] += by


def _keep(known: dict[bytes, Any], key: bytes, value: Any) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[key] = value
