"""How many cycles a chain takes: a model of fetch, three queues, semaphores, transfers and compute, by descriptor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.overlay.descriptor import decode
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay

DEPTH = 8  # descriptors of each queue
LATENCY = 40  # cycles from an address to the first beat of data
BURST_BYTES = 128
DESCRIPTOR_BEATS = 8
TRANSFER = 8  # cycles of a transfer beside latency and data
ACKNOWLEDGE = 8  # from the last beat of a STORE to its end
PIPELINE = 28  # from the last activation that is read to the last output in memory
SETUP = 8  # from one compute descriptor to the next

Fields = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ChainCycles:
    """``total``: from start to done. ``compute_ends``: when each CONV, DEPTHWISE, POOL and ADD ended, as of start."""

    total: int
    compute_ends: tuple[int, ...]


def compute_cycles(spec: Overlay, fields: Fields) -> int:
    """Cycles in which a compute descriptor reads activations, waits for weights included."""
    pixels = fields["count_e"] * fields["count_f"]
    outer = fields["count_b"] * fields["count_c"] * fields["count_d"]
    if fields["opcode"] == spec.opcodes["CONV"]:
        first = max(pixels, spec.pass_rows + spec.parameter_rows)
        return fields["count_a"] * (first + (outer - 1) * max(pixels, spec.pass_rows))
    return fields["count_a"] * outer * pixels


def transfer_beats(spec: Overlay, fields: Fields) -> int:
    """Beats of 8 bytes of a LOAD or STORE."""
    return fields["runs"] * fields["words"] * spec.lanes // 8


def estimate(spec: Overlay, fields: Fields) -> int:
    """About how long a descriptor takes by itself; fields that it leaves out are 0, counts 1."""
    if "runs" in fields:
        return LATENCY + TRANSFER + transfer_beats(spec, fields)
    whole = {f"count_{loop}": 1 for loop in "abcdef"} | dict(fields)
    return compute_cycles(spec, whole) + SETUP


def chain_cycles(spec: Overlay, chain: bytes) -> ChainCycles:
    """``chain``: descriptors up to END; what follows it does not matter."""
    given: dict[int, list[int]] = {}
    taken: dict[int, int] = {}
    popped: dict[str, list[int]] = {"load": [], "compute": [], "store": []}
    free = {"load": 0, "compute": 0, "store": 0}
    fetched = LATENCY
    ends: list[int] = []
    last = 0
    names = {code: name for name, code in spec.opcodes.items()}
    for start in range(0, len(chain), DESCRIPTOR_BYTES):
        fields = decode(spec, chain[start : start + DESCRIPTOR_BYTES])
        name = names.get(fields["opcode"], "END")
        fetched += DESCRIPTOR_BEATS
        if name == "END":
            break
        engine = {"LOAD": "load", "STORE": "store"}.get(name, "compute")
        queue = popped[engine]
        if len(queue) >= DEPTH:
            fetched = max(fetched, queue[-DEPTH])
        begin = max(fetched + 2, free[engine])
        for semaphore in range(8):
            if fields["wait"] >> semaphore & 1:
                number = taken.get(semaphore, 0)
                taken[semaphore] = number + 1
                begin = max(begin, given[semaphore][number] + 1)
        queue.append(begin)
        if engine == "compute":
            if fields["flags"] & spec.flags["DRAIN"] and ends:
                begin = max(begin, ends[-1] + 1)
            free[engine] = begin + SETUP + compute_cycles(spec, fields)
            finish = free[engine] + PIPELINE
            ends.append(finish)
        else:
            free[engine] = begin + transfer_beats(spec, fields)
            finish = free[engine] + LATENCY + TRANSFER
        for semaphore in range(8):
            if fields["signal"] >> semaphore & 1:
                given.setdefault(semaphore, []).append(finish)
        last = max(last, finish)
    return ChainCycles(max(last, fetched) + 4, tuple(ends))
