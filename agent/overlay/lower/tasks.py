"""Descriptors before they are ordered: what each one does, reads and writes."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from agent.overlay.lower.views import Area, View
from agent.overlay.spec import Overlay


class Stream(enum.IntEnum):
    """Descriptors that stay in their order. Loads of weights and of activations share an engine."""

    WEIGHTS = 0
    INPUTS = 1
    COMPUTE = 2
    STORES = 3


@dataclass(frozen=True, slots=True)
class Task:
    """``fields`` without semaphores; a weight LOAD's offset counts from the first weight. ``layer``: of a compute."""

    stream: Stream
    fields: dict[str, int]
    reads: tuple[Area, ...]
    writes: tuple[Area, ...]
    layer: int


def transfer(spec: Overlay, stream: Stream, ddr: Area, chip: Area) -> Task:
    """A LOAD or STORE between areas of equal size; their runs may differ when one of them is contiguous."""
    runs, words = max(ddr.runs, chip.runs), min(ddr.words, chip.words)
    fields = {
        "opcode": spec.opcodes["STORE" if stream == Stream.STORES else "LOAD"],
        "offset": ddr.start * spec.lanes,
        "region": int(ddr.space),
        "chip": chip.start,
        "runs": runs,
        "words": words,
        "region_step": (ddr.step or words) * spec.lanes if runs > 1 else 0,
        "chip_step": (chip.step or words) if runs > 1 else 0,
    }
    if stream == Stream.STORES:
        return Task(stream, fields, (chip,), (ddr,), -1)
    return Task(stream, fields, (ddr,), (chip,), -1)


def load_weights(spec: Overlay, offset: int, weights: Area) -> Task:
    """``offset``: bytes from the first weight."""
    fields = {
        "opcode": spec.opcodes["LOAD"],
        "flags": spec.flags["WEIGHTS"],
        "offset": offset,
        "region": 0,
        "chip": 2 * weights.start,
        "runs": 1,
        "words": 2 * weights.words,
    }
    return Task(Stream.WEIGHTS, fields, (), (weights,), -1)


def tile_transfer(
    spec: Overlay, stream: Stream, ddr: View, chip: View, blocks: tuple[int, int], rows: tuple[int, int]
) -> Task:
    """Some rows of some blocks, from where ``ddr`` says to where ``chip`` says or back."""
    return transfer(spec, stream, ddr.area(blocks, rows), chip.area(blocks, rows))
