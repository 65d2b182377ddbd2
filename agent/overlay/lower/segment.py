"""A run of layers as a ``program.Segment``: planned, emitted, ordered, linked and encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.errors import UnsupportedModel
from agent.overlay.cycles import chain_cycles
from agent.overlay.descriptor import encode
from agent.overlay.graph import Layer, Tensor
from agent.overlay.lower.build import Work, build
from agent.overlay.lower.emit import ALIGN, Ddr, emit, place_in_ddr
from agent.overlay.lower.homes import Homes, find_homes
from agent.overlay.lower.links import link
from agent.overlay.lower.order import chain_order
from agent.overlay.lower.storage import Storage, WeightPlan, plan_weights
from agent.overlay.lower.tasks import Stream, Task, load_weights
from agent.overlay.lower.views import Area, Space, Unplaceable, ceil_div
from agent.overlay.program import Binding, Segment
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay

MOST_DESCRIPTORS = 65535  # of a chain; the core counts them in 16 bits
MOST_BYTES = 0xFFFFFFFF  # of a region; offsets have 32 bits


class TooLong(Exception):
    """One chain does not hold the layers; fewer may fit."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """Tasks in chain order, linked, and how long they take; weights lie behind the chains."""

    tasks: tuple[Task, ...]
    fields: tuple[dict[str, int], ...]
    storage: Storage
    cycles: int


def lower_segment(
    spec: Overlay, layers: Sequence[Layer], tensors: Mapping[str, Tensor], wanted: frozenset[str]
) -> Segment:
    """``wanted``: tensors of the segment that others read.

    Raises Unplaceable, which names a layer, TooLong, and UnsupportedModel for tensors beyond the address space.
    """
    work = build(spec, layers, tensors, wanted)
    homes = find_homes(work)
    ddr = place_in_ddr(work, homes)
    _check_sizes(ddr)
    streams = [op.weights() for op in work.ops]
    plans = plan_weights(spec, work.ops)
    chains = (_chain(work, homes, ddr, streams, plan) for plan in plans)
    return _segment(work, ddr, tensors, min(chains, key=lambda each: each.cycles))


def _check_sizes(ddr: Ddr) -> None:
    for space, nbytes in ddr.sizes.items():
        if nbytes > MOST_BYTES:
            raise UnsupportedModel(
                f"its {space.name.lower()} take {nbytes} bytes, more than the {MOST_BYTES} that the overlay can "
                "address; use smaller images"
            )


def _chain(work: Work, homes: Homes, ddr: Ddr, streams: Sequence[bytes], plan: WeightPlan) -> _Chain:
    spec = work.spec
    storage = Storage(spec, work.ops, streams, plan)
    tasks = emit(work, homes, ddr, storage)
    if len(tasks) >= MOST_DESCRIPTORS:
        raise TooLong(f"{len(tasks)} descriptors are more than a chain can have ({MOST_DESCRIPTORS})")
    sizes = {
        Space.CHIP: spec.memory.activation_words,
        Space.WEIGHTS: spec.memory.weight_rows,
        Space.OUTPUTS: ceil_div(ddr.sizes[Space.OUTPUTS], spec.lanes),
        Space.SCRATCH: ceil_div(ddr.sizes[Space.SCRATCH], spec.lanes),
    }
    ordered = [tasks[index] for index in chain_order(spec, tasks, sizes)]
    fields = link(spec, ordered, sizes)
    cycles = chain_cycles(spec, _encode(spec, ordered, fields, 0)).total
    return _Chain(tuple(ordered), tuple(fields), storage, cycles)


def _encode(spec: Overlay, tasks: Sequence[Task], fields: Sequence[dict[str, int]], weights: int) -> bytes:
    """``weights``: byte of region 0 where they begin."""
    chain = bytearray()
    for task, each in zip(tasks, fields, strict=True):
        moved = {**each, "offset": each["offset"] + weights} if task.stream == Stream.WEIGHTS else each
        try:
            chain += encode(spec, moved)
        except ValueError as error:
            raise Unplaceable(max(task.layer, 0), f"a descriptor cannot say it: {error}") from error
    return bytes(chain + encode(spec, {"opcode": spec.opcodes["END"]}))


def _segment(work: Work, ddr: Ddr, tensors: Mapping[str, Tensor], chain: _Chain) -> Segment:
    spec, storage = work.spec, chain.storage
    resident_at = (len(chain.tasks) + 1) * DESCRIPTOR_BYTES
    stay = storage.resident_rows
    load = [load_weights(spec, 0, Area(Space.WEIGHTS, 0, stay))] if stay else []
    end = resident_at + (2 * DESCRIPTOR_BYTES if stay else 0)
    weights = ceil_div(end, ALIGN) * ALIGN
    data = _encode(spec, chain.tasks, chain.fields, weights)
    if stay:
        data += _encode(spec, load, [load[0].fields], weights)
    data = data.ljust(weights, b"\0") + storage.data
    if len(data) > MOST_BYTES:
        raise TooLong(f"{len(data)} bytes of weights are more than the {MOST_BYTES} that the overlay reaches")
    counts = [0] * len(work.layers)
    for task in chain.tasks:
        if task.stream == Stream.COMPUTE:
            counts[task.layer] += 1
    inputs = [
        replace(value.source, offset=ddr.offsets[name]) for name, value in work.values.items() if value.source
    ]
    outputs = [
        Binding(tensors[name], ddr.offsets[name], value.shape.words * spec.lanes)
        for name, value in work.values.items()
        if value.leaves
    ]
    return Segment(
        work.layers, tuple(inputs), tuple(outputs), data, resident_at if stay else None, 0,
        ddr.sizes[Space.INPUTS], ddr.sizes[Space.OUTPUTS], ddr.sizes[Space.SCRATCH], tuple(counts),
    )  # fmt: skip
