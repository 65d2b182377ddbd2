"""A core at the level of registers and descriptors: chains on any transport, and the memories after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.hal import Buffer, OverlayTransport
from agent.overlay.descriptor import encode
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay

START, RESET, INTERRUPT = 1, 2, 4  # CONTROL
BUSY, DONE, ERROR = 1, 2, 4  # STATUS
WAIT_S = 60.0  # of wall time, for a chain that the watchdog ends much earlier
Values = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """``error``: its name in overlay.toml, empty when the chain ended well; ``index``: of the descriptor in error."""

    error: str
    index: int
    interrupted: bool
    cycles: int


class Core:
    """Four regions on one transport: 0 the program, 1 inputs, 2 outputs, 3 scratch."""

    def __init__(self, transport: OverlayTransport, spec: Overlay) -> None:
        self.transport, self.spec = transport, spec
        self.regions: dict[int, Buffer] = {}

    def place(self, number: int, data: bytes) -> None:
        """A region's bytes; its size is theirs."""
        found = self.regions.get(number)
        if found is None or found.nbytes != len(data):
            if found is not None:
                found.close()
            buffer = self.regions[number] = self.transport.allocate(len(data))
            self.write(f"REGION{number}_LOW", buffer.address & 0xFFFFFFFF)
            self.write(f"REGION{number}_HIGH", buffer.address >> 32)
            self.write(f"REGION{number}_BYTES", len(data))
        self.regions[number].write(0, data)

    def run(
        self, chain: Sequence[Values] | bytes, watchdog: int = 100_000, timeout_s: float = WAIT_S
    ) -> Result:
        """Run descriptors, which go to the start of region 0 behind which they must have room."""
        data = chain if isinstance(chain, bytes) else assemble(self.spec, chain)
        self.regions[0].write(0, data)
        self.write("CHAIN", 0)
        self.write("WATCHDOG", watchdog)
        self.write("CONTROL", START | INTERRUPT)
        interrupted = self.transport.wait(timeout_s)
        status = self.read("STATUS")
        assert not status & BUSY
        names = {code: name for name, code in self.spec.errors.items()} | {0: ""}
        return Result(names[status >> 8 & 0xFF], self.read("ERROR_INDEX"), interrupted, self.read("CYCLES"))

    def reset(self) -> None:
        """Soft reset, which must end."""
        self.write("CONTROL", RESET)
        for _ in range(10):
            if not self.read("STATUS") & BUSY:
                break
            self.transport.wait(0.0)
        assert self.read("STATUS") == 0
        for number, buffer in self.regions.items():  # it gives every register its reset value
            self.write(f"REGION{number}_LOW", buffer.address & 0xFFFFFFFF)
            self.write(f"REGION{number}_HIGH", buffer.address >> 32)
            self.write(f"REGION{number}_BYTES", buffer.nbytes)

    def output(self, number: int = 2) -> bytes:
        """A region's bytes."""
        return self.regions[number].read(0, self.regions[number].nbytes)

    def read(self, name: str) -> int:
        return self.transport.read32(self.spec.register(name))

    def write(self, name: str, value: int) -> None:
        self.transport.write32(self.spec.register(name), value)


def assemble(spec: Overlay, chain: Sequence[Values]) -> bytes:
    """Descriptors as bytes."""
    return b"".join(encode(spec, values) for values in chain)


def chain_bytes(descriptors: int) -> int:
    """Room for a chain in region 0, a multiple of 4096."""
    return -(-descriptors * DESCRIPTOR_BYTES // 4096) * 4096


def load(
    spec: Overlay, *, region: int, offset: int, chip: int, words: int, weights: bool = False, **other: int
) -> Values:
    """LOAD of one run."""
    return {
        "opcode": spec.opcodes["LOAD"], "flags": spec.flags["WEIGHTS"] if weights else 0, "region": region,
        "offset": offset, "chip": chip, "runs": 1, "words": words, **other,
    }  # fmt: skip


def store(spec: Overlay, *, region: int, offset: int, chip: int, words: int, **other: int) -> Values:
    """STORE of one run."""
    return {
        "opcode": spec.opcodes["STORE"], "region": region, "offset": offset, "chip": chip, "runs": 1, "words": words,
        **other,
    }  # fmt: skip


def end(spec: Overlay) -> Values:
    return {"opcode": spec.opcodes["END"]}


def semaphore(spec: Overlay, name: str) -> int:
    """Its bit in a wait or signal mask."""
    return 1 << spec.semaphores[name]
