"""A segment's layers as kernels over planned buffers. Pure: numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.devices.opencl.plan import Argument, Constant, Crossing, Launch, SegmentPlan, Slot, Traits
from agent.devices.opencl.slots import Life, assign
from agent.devices.opencl.weights import LANES, blocks, conv_weights, depthwise_weights, is_wide, per_channel
from agent.overlay.graph import Add, Conv, Layer, Pads, Pair, Pool, Tensor
from agent.overlay.program import Segment

Size3 = tuple[int, int, int]
Operand = str | bytes | int  # a tensor's name, a constant's contents, a number
FROM_HOST, TO_HOST = (
    "from host ",
    "to host ",
)  # before a tensor's name: its bytes as the source model holds them


@dataclass(frozen=True, slots=True)
class Planes:
    """The size of a tensor."""

    channels: int
    height: int
    width: int

    @property
    def nbytes(self) -> int:
        """On the device, in blocks of four channels."""
        return blocks(self.channels) * LANES * self.height * self.width

    @property
    def grid(self) -> Size3:
        """A work-item for each pixel of each block."""
        return (self.width, self.height, blocks(self.channels))


@dataclass(frozen=True, slots=True)
class Step:
    """A launch before its tensors have buffers."""

    kernel: str
    operands: tuple[Operand, ...]
    reads: tuple[str, ...]
    writes: str
    size: Size3
    layer: int | None


def plan_segment(segment: Segment, traits: Traits) -> SegmentPlan:
    """Buffers, constants and launches of a segment."""
    sizes = shapes(segment)
    steps = [
        *(_crossing("pack", b.tensor, inward=True) for b in segment.inputs),
        *(_lower(layer, index, sizes) for index, layer in enumerate(segment.layers)),
        *(_crossing("unpack", b.tensor, inward=False) for b in segment.outputs),
    ]
    slot_of, slots = assign(_lives(steps, sizes))
    constants = _Constants()

    def argument(operand: Operand) -> Argument:
        if isinstance(operand, str):
            return Slot(slot_of[operand])
        return Constant(constants.index(operand)) if isinstance(operand, bytes) else operand

    launches = [_launch(step, tuple(map(argument, step.operands)), traits) for step in steps]
    inputs, outputs = (
        tuple(_crosses(b.tensor, slot_of[prefix + b.tensor.name]) for b in side)
        for side, prefix in ((segment.inputs, FROM_HOST), (segment.outputs, TO_HOST))
    )
    return SegmentPlan(slots, tuple(constants.contents), inputs, outputs, tuple(launches))


def shapes(segment: Segment) -> dict[str, Planes]:
    """The size of every tensor by name."""
    found = {b.tensor.name: _planes(b.tensor) for b in segment.inputs}
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


def _planes(tensor: Tensor) -> Planes:
    return Planes(tensor.channels, tensor.height, tensor.width)


def _crossing(kernel: str, tensor: Tensor, *, inward: bool) -> Step:
    planes, name = _planes(tensor), tensor.name
    source, target = (FROM_HOST + name, name) if inward else (name, TO_HOST + name)
    flip = 0x80 if tensor.dtype == "UINT8" else 0
    numbers = (planes.channels, planes.height, planes.width, int(tensor.layout == "nhwc"), flip)
    return Step(kernel, (source, target, *numbers), (source,), target, planes.grid, None)


def _lower(layer: Layer, index: int, sizes: Mapping[str, Planes]) -> Step:
    target = sizes[layer.output]
    if isinstance(layer, Add):
        pixels = target.height * target.width
        low, high = _signed(layer.offset), layer.offset >> 32
        numbers = (layer.ratio_a, layer.ratio_b, low, high, layer.shift, layer.low, layer.high)
        operands: tuple[Operand, ...] = (layer.a, layer.b, layer.output, pixels, *numbers)
        grid = (pixels, 1, blocks(target.channels))
        return Step("add", operands, (layer.a, layer.b), layer.output, grid, index)
    source = sizes[layer.input]
    kernel, operands = (
        _pool(layer, source, target) if isinstance(layer, Pool) else _conv(layer, source, target)
    )
    return Step(kernel, operands, (layer.input,), layer.output, target.grid, index)


def _pool(layer: Pool, source: Planes, target: Planes) -> tuple[str, tuple[Operand, ...]]:
    sides = (source.height, source.width, target.height, target.width)
    shared = (
        layer.input,
        layer.output,
        *sides,
        *layer.kernel,
        *layer.stride,
        *layer.pads[:2],
        layer.pad_value,
    )
    if layer.maximum:
        return "pool_max", (*shared, layer.low, layer.high)
    scale = int(np.float32(layer.scale).view(np.int32))
    return "pool_average", (*shared, layer.bias, scale, layer.zero_point, layer.low, layer.high)


def _conv(layer: Conv, source: Planes, target: Planes) -> tuple[str, tuple[Operand, ...]]:
    window = (*layer.weights.shape[2:], *layer.stride, *layer.dilation, *layer.pads[:2])
    finish = (layer.zero_point, layer.low, layer.high)
    biases, scales = per_channel(layer.bias), per_channel(layer.scale)
    into, out = (source.height, source.width), (target.height, target.width)
    ends = (layer.input, layer.output)
    if layer.depthwise:
        weights = depthwise_weights(layer)
        count = blocks(source.channels)
        return "depthwise", (
            *ends, weights, biases, scales, count, *into, *out, *window, layer.pad_value, *finish
        )  # fmt: skip
    word = _signed((layer.pad_value & 0xFF) * 0x01010101)
    counts = (blocks(source.channels), *into, blocks(target.channels), *out)
    kernel = "conv_wide" if is_wide(layer) else "conv"
    return kernel, (*ends, conv_weights(layer), biases, scales, *counts, *window, word, *finish)


def _signed(word: int) -> int:
    """The lowest 32 bits as a signed number."""
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _lives(steps: Sequence[Step], sizes: Mapping[str, Planes]) -> list[Life]:
    written = {step.writes: number for number, step in enumerate(steps)}
    last = dict(written)
    for number, step in enumerate(steps):
        last.update(dict.fromkeys(step.reads, number))
    between = [Life(name, planes.nbytes, written[name], last[name]) for name, planes in sizes.items()]
    crossing = [
        Life(name, _raw(sizes[name.removeprefix(prefix)]), 0, len(steps), shared=False)
        for step in steps
        for name in (*step.reads, step.writes)
        for prefix in (FROM_HOST, TO_HOST)
        if name.startswith(prefix)
    ]
    return between + crossing


def _raw(planes: Planes) -> int:
    return planes.channels * planes.height * planes.width


def _crosses(tensor: Tensor, slot: int) -> Crossing:
    return Crossing(tensor.name, slot, _raw(_planes(tensor)))


def _launch(step: Step, arguments: tuple[Argument, ...], traits: Traits) -> Launch:
    # PoCL compiles a kernel for every size of work-group that it meets.
    local = (1, 1, 1) if traits.kind == "cpu" else None
    return Launch(step.kernel, arguments, step.size, local, step.layer)


@dataclass(slots=True)
class _Constants:
    contents: list[bytes] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def index(self, content: bytes) -> int:
        if content not in self._known:
            self._known[content] = len(self.contents)
            self.contents.append(content)
        return self._known[content]
