"""A segment's layers as kernels over planned buffers. Pure: numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.devices.opencl.dealing import Planes
from agent.devices.opencl.plan import Argument, Constant, Crossing, Launch, SegmentPlan, Slot, Traits
from agent.devices.opencl.slots import Life, assign
from agent.devices.opencl.steps import Operand, Raw, Step, crossing, lower, planes_of
from agent.overlay.graph import Add, Pads, Pair, Pool, Tensor
from agent.overlay.program import Segment


def plan_segment(segment: Segment, traits: Traits) -> SegmentPlan:
    """Buffers, constants and launches of a segment."""
    sizes = shapes(segment)
    steps = [
        *(crossing(b.tensor, traits, inward=True) for b in segment.inputs),
        *(lower(layer, index, sizes, traits) for index, layer in enumerate(segment.layers)),
        *(crossing(b.tensor, traits, inward=False) for b in segment.outputs),
    ]
    slot_of, slots = assign(_lives(steps, sizes))
    constants = _Constants()

    def argument(operand: Operand) -> Argument:
        if isinstance(operand, str | Raw):
            return Slot(slot_of[operand])
        return Constant(constants.index(operand)) if isinstance(operand, bytes) else operand

    launches = tuple(
        Launch(step.kernel, tuple(map(argument, step.operands)), step.size, step.local, step.layer)
        for step in steps
    )
    inputs, outputs = (
        tuple(_crosses(b.tensor, slot_of[Raw(b.tensor.name, inward)]) for b in side)
        for side, inward in ((segment.inputs, True), (segment.outputs, False))
    )
    return SegmentPlan(slots, tuple(constants.contents), inputs, outputs, launches)


def shapes(segment: Segment) -> dict[str, Planes]:
    """The size of every tensor by name."""
    found = {b.tensor.name: planes_of(b.tensor) for b in segment.inputs}
    for layer in segment.layers:
        if isinstance(layer, Add):
            found[layer.output] = found[layer.a]
            continue
        source = found[layer.input]
        if isinstance(layer, Pool):
            height, width = windows(source, layer.kernel, (1, 1), layer.stride, layer.pads)
            found[layer.output] = Planes(source.channels, height, width)
        else:
            outputs, _, *kernel = layer.weights.shape
            height, width = windows(source, (kernel[0], kernel[1]), layer.dilation, layer.stride, layer.pads)
            found[layer.output] = Planes(outputs, height, width)
    return found


def windows(source: Planes, kernel: Pair, dilation: Pair, stride: Pair, pads: Pads) -> Pair:
    """How many windows, down and across, the padded input has."""
    top, left, bottom, right = pads
    padded = (source.height + top + bottom, source.width + left + right)
    rows, columns = (
        (length - step * (taps - 1) - 1) // jump + 1
        for length, taps, step, jump in zip(padded, kernel, dilation, stride, strict=True)
    )
    return rows, columns


def _lives(steps: Sequence[Step], sizes: Mapping[str, Planes]) -> list[Life]:
    written = {step.writes: number for number, step in enumerate(steps)}
    last = dict(written)
    for number, step in enumerate(steps):
        last.update(dict.fromkeys(step.reads, number))
    between = [Life(name, planes.nbytes, written[name], last[name]) for name, planes in sizes.items()]
    crossing_host = [
        Life(held, _raw(sizes[held.name]), 0, len(steps), shared=False)
        for step in steps
        for held in (*step.reads, step.writes)
        if isinstance(held, Raw)
    ]
    return between + crossing_host


def _raw(planes: Planes) -> int:
    return planes.channels * planes.pixels


def _crosses(tensor: Tensor, slot: int) -> Crossing:
    return Crossing(tensor.name, slot, _raw(planes_of(tensor)))


@dataclass(slots=True)
class _Constants:
    """Contents, each once."""

    contents: list[bytes] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def index(self, content: bytes) -> int:
        if content not in self._known:
            self._known[content] = len(self.contents)
            self.contents.append(content)
        return self._known[content]
