"""How many cycles a chain takes, without running it (the model itself: cyclemodel)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.overlay.descriptor import decode
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay

BEAT_BYTES = 8
TRANSFER = 48  # cycles of a transfer beside its data: latency of the memory, start and end
POOL_ROWS = 6  # npu_weights: cycles of a POOL's parameters

Fields = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ComputeTimes:
    """A compute descriptor. ``end``: when it had finished. Cycles before and in it: ``issue`` in which it read,
    ``wait`` without a descriptor (or for a semaphore), ``drain`` for the one before it, ``weights`` for weights."""

    end: int
    issue: int
    wait: int
    drain: int
    weights: int


@dataclass(frozen=True, slots=True)
class ChainCycles:
    """``total``: from start to done. ``computes``: CONV, DEPTHWISE, POOL and ADD in chain order."""

    total: int
    computes: tuple[ComputeTimes, ...]

    @property
    def compute_ends(self) -> tuple[int, ...]:
        """When each compute descriptor ended, in cycles since start."""
        return tuple(each.end for each in self.computes)


@dataclass(frozen=True, slots=True)
class Reads:
    """What a compute descriptor reads: cycles from its first read to its last pass, of that pass, and of all reads;
    ``first_rows``: cycles until its first weights are there."""

    to_last_pass: int
    last_pass: int
    issue: int
    first_rows: int


def reads(spec: Overlay, fields: Fields) -> Reads:
    """A pass takes a cycle a read, but not less than the rows of the next one's weights."""
    pixels = fields["count_e"] * fields["count_f"]
    outer = fields["count_b"] * fields["count_c"] * fields["count_d"]
    blocks = fields["count_a"]
    issue = blocks * outer * pixels
    if fields["opcode"] == spec.opcodes["CONV"]:
        first = spec.pass_rows + spec.parameter_rows
        inner = blocks * (outer - 1) * max(pixels, spec.pass_rows)
        return Reads(inner + (blocks - 1) * max(pixels, first), pixels, issue, first)
    if fields["opcode"] == spec.opcodes["DEPTHWISE"]:
        first = spec.depthwise_rows + spec.parameter_rows
        return Reads((blocks - 1) * max(pixels, first), pixels, issue, first)
    return Reads(0, issue, issue, POOL_ROWS if fields["opcode"] == spec.opcodes["POOL"] else 0)


def transfer_beats(spec: Overlay, fields: Fields) -> int:
    """Beats of 8 bytes of a LOAD or STORE."""
    return fields["runs"] * fields["words"] * spec.lanes // BEAT_BYTES


def estimate(spec: Overlay, fields: Fields) -> int:
    """About how long a descriptor takes by itself; fields that it leaves out are 0, counts 1."""
    if "runs" in fields:
        return TRANSFER + transfer_beats(spec, fields)
    work = reads(spec, {f"count_{loop}": 1 for loop in "abcdef"} | dict(fields))
    return work.to_last_pass + work.last_pass + 1


def chain_cycles(spec: Overlay, chain: bytes) -> ChainCycles:
    """``chain``: descriptors up to END. Of what follows, only the length matters: it is fetched ahead in vain."""
    from agent.overlay.cyclemodel import Model

    descriptors = []
    for start in range(0, len(chain), DESCRIPTOR_BYTES):
        fields = decode(spec, chain[start : start + DESCRIPTOR_BYTES])
        if fields["opcode"] == spec.opcodes["END"]:
            break
        descriptors.append(fields)
    return Model(spec, descriptors, len(chain) // DESCRIPTOR_BYTES).run()
