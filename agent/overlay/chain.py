"""A program's chains of descriptors, as a driver needs to know them."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import ProgramError
from agent.overlay.cycles import chain_cycles
from agent.overlay.program import Program, Segment
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay

MARGIN = 8  # how many times longer than modelled a chain may go on without a finished descriptor
LEAST_CYCLES = 1_000_000  # of that limit
MOST_CYCLES = 1 << 30  # registers have 32 bits


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain at ``offset`` of region 0. ``opcodes``: a name a descriptor; ``limit``: cycles, far more than needed."""

    offset: int
    opcodes: tuple[str, ...]
    limit: int


def read_chain(spec: Overlay, data: bytes, offset: int) -> Chain:
    """The chain that starts at ``offset``. ProgramError when it does not lie in ``data`` up to its END."""
    names = {code: name for name, code in spec.opcodes.items()}
    opcodes = []
    if offset % DESCRIPTOR_BYTES == 0:
        for code in data[offset::DESCRIPTOR_BYTES]:
            opcodes.append(names.get(code, f"opcode 0x{code:02X}"))
            if opcodes[-1] == "END":
                break
    end = offset + len(opcodes) * DESCRIPTOR_BYTES
    if offset < 0 or not opcodes or opcodes[-1] != "END" or end > len(data):
        raise ProgramError(
            f"the program has no chain of descriptors at byte {offset}: it is corrupt, deploy it again"
        )
    try:
        modelled = chain_cycles(spec, data[offset:end]).total
    except ValueError as error:
        raise ProgramError(f"the program is corrupt: {error}; deploy it again") from error
    return Chain(offset, tuple(opcodes), min(max(MARGIN * modelled, LEAST_CYCLES), MOST_CYCLES))


def layer_at(segment: Segment, chain: Chain, index: int) -> str:
    """The name of the layer that a descriptor belongs to, empty where none is known."""
    if chain.offset != segment.chain:
        return ""
    done = sum(name not in ("LOAD", "STORE", "END") for name in chain.opcodes[:index])
    for layer, count in zip(segment.layers, segment.counts, strict=False):
        if done < count:
            return layer.name
        done -= count
    return ""


def check_program(program: Program, spec: Overlay) -> list[tuple[Segment, tuple[Chain | None, Chain]]]:
    """The program's segments, each with its resident chain and its own. ProgramError when they do not fit ``spec``."""
    wanted, found = (program.overlay, program.version, program.lanes), (spec.id, spec.version, spec.lanes)
    if wanted != found:
        raise ProgramError(
            f"program {program.name} is for overlay {wanted[0]} version {wanted[1]} with {wanted[2]} lanes, not for "
            f"{found[0]} version {found[1]} with {found[2]}; compile it for this overlay"
        )
    return [(step, _chains(step, spec)) for step in program.steps if isinstance(step, Segment)]


def _chains(segment: Segment, spec: Overlay) -> tuple[Chain | None, Chain]:
    resident = None if segment.resident is None else read_chain(spec, segment.data, segment.resident)
    return resident, read_chain(spec, segment.data, segment.chain)
