"""Each layer as the launch of a kernel: which one, its numbers, and how its pixels are dealt out to work-items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agent.devices.opencl.plan import Traits
from agent.devices.opencl.weights import (
    LANES,
    blocks,
    depthwise_weights,
    is_wide,
    matrix_weights,
    per_channel,
)  # fmt: skip
from agent.overlay.graph import Add, Conv, Layer, Pool, Tensor

Size3 = tuple[int, int, int]
Operand = str | bytes | int  # a tensor's name, a constant's contents, a number
Operands = tuple[Operand, ...]
FROM_HOST, TO_HOST = (
    "from host ",
    "to host ",
)  # before a tensor's name: its bytes as the source model holds them

# kernels/conv_cpu.cl: pixels of a work-item, outputs of a block, words of four inputs that it sums up in floats
CPU_TILE, CPU_OUTPUTS, CPU_WORDS = 6, 16, 128
CPU_PIXELS = 4  # kernels/common.cl: pixels of a vector
GPU_TILE = 4  # kernels/conv_gpu.cl: pixels of a work-item
GPU_LINE, GPU_SQUARE = 64, 8  # work-items of a work-group, in a row or in a square
GPU_BUSY = 256  # work-items that a compute unit needs before each gets more to do
CPU_SHARE = 4  # work-items for each compute unit, so that none waits long for the last
CPU_WORK = 1 << 14  # what makes the start of a work-item cheap: bytes times taps
EXACT = 1 << 24  # float32 holds every integer up to here


@dataclass(frozen=True, slots=True)
class Planes:
    """The size of a tensor."""

    channels: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def blocks(self) -> int:
        return blocks(self.channels)

    @property
    def nbytes(self) -> int:
        """On the device, in blocks of four channels."""
        return self.blocks * LANES * self.pixels


@dataclass(frozen=True, slots=True)
class Step:
    """A launch before its tensors have buffers: see ``plan.Launch``."""

    kernel: str
    operands: Operands
    reads: tuple[str, ...]
    writes: str
    size: Size3
    local: Size3
    layer: int | None


@dataclass(frozen=True, slots=True)
class Dealt:
    """How pixels are dealt out: each work-item makes ``columns`` x ``rows`` of a block."""

    columns: int
    rows: int
    size: Size3
    local: Size3


def planes_of(tensor: Tensor) -> Planes:
    return Planes(tensor.channels, tensor.height, tensor.width)


def crossing(tensor: Tensor, traits: Traits, *, inward: bool) -> Step:
    """The kernel that packs an input or unpacks an output."""
    planes, name = planes_of(tensor), tensor.name
    kernel, source, target = ("pack", FROM_HOST + name, name) if inward else ("unpack", name, TO_HOST + name)
    dealt = deal(planes, 4, traits)
    numbers = (
        *(planes.channels, planes.height, planes.width, int(tensor.layout == "nhwc")),
        *(0x80 if tensor.dtype == "UINT8" else 0, dealt.columns, dealt.rows),
    )
    return Step(kernel, (source, target, *numbers), (source,), target, dealt.size, dealt.local, None)


def lower(layer: Layer, index: int, sizes: Mapping[str, Planes], traits: Traits) -> Step:
    """The kernel of a layer; ``sizes`` of its tensors by name."""
    if isinstance(layer, Add):
        return _add(layer, index, sizes[layer.output], traits)
    source, target = sizes[layer.input], sizes[layer.output]
    if isinstance(layer, Pool):
        return _pool(layer, index, source, target, traits)
    return (_depthwise if layer.depthwise else _conv)(layer, index, source, target, traits)


def deal(made: Planes, taps: int, traits: Traits) -> Dealt:
    """Pixels of which each costs ``taps`` multiplications a channel: on CPUs whole rows, as many as are worth it."""
    if traits.kind != "cpu":
        side = GPU_SQUARE if traits.group >= GPU_SQUARE**2 else 1
        size = (_up(made.width, side), _up(made.height, side), made.blocks)
        return Dealt(1, 1, size, (side, side, 1))
    worth = blocks(CPU_WORK, LANES * made.width * taps)
    shared = made.height * made.blocks // (CPU_SHARE * traits.units)
    rows = max(1, min(worth, shared, made.height))
    return Dealt(made.width, rows, (1, blocks(made.height, rows), made.blocks), (1, 1, 1))


def _add(layer: Add, index: int, made: Planes, traits: Traits) -> Step:
    columns, size, local = 1, *_line(made.pixels, made.blocks, traits)
    if traits.kind == "cpu":
        # A row of one column each: whole vectors but for the last.
        dealt = deal(Planes(made.channels, blocks(made.pixels, LANES), LANES), 4, traits)
        columns, size, local = dealt.rows * LANES, dealt.size, (1, 1, 1)
        size = (size[1], 1, size[2])
    low, high = _signed(layer.offset), layer.offset >> 32
    numbers = (layer.ratio_a, layer.ratio_b, low, high, layer.shift, layer.low, layer.high)
    operands = (layer.a, layer.b, layer.output, made.pixels, columns, *numbers)
    return Step("add", operands, (layer.a, layer.b), layer.output, size, local, index)


def _pool(layer: Pool, index: int, source: Planes, target: Planes, traits: Traits) -> Step:
    dealt = deal(target, layer.kernel[0] * layer.kernel[1], traits)
    shape = (source.height, source.width, target.height, target.width, dealt.columns, dealt.rows)
    window = (*layer.kernel, *layer.stride, 1, 1, *layer.pads[:2], _word(layer.pad_value))
    kernel = "pool_max"
    scaling: tuple[int, ...] = ()
    if not layer.maximum:
        scale = int(np.float32(layer.scale).view(np.int32))
        kernel, scaling = "pool_average", (layer.bias, scale, layer.zero_point)
    operands: Operands = (layer.input, layer.output, *shape, *window, *scaling, layer.low, layer.high)
    return Step(kernel, operands, (layer.input,), layer.output, dealt.size, dealt.local, index)


def _depthwise(layer: Conv, index: int, source: Planes, target: Planes, traits: Traits) -> Step:
    height, width = layer.weights.shape[2:]
    dealt = deal(target, height * width, traits)
    constants = (
        depthwise_weights(layer, CPU_PIXELS if traits.kind == "cpu" else 1),
        per_channel(layer.bias),
        per_channel(layer.scale),
    )
    shape = (
        source.blocks,
        source.height,
        source.width,
        target.height,
        target.width,
        dealt.columns,
        dealt.rows,
    )
    operands: Operands = (layer.input, layer.output, *constants, *shape, *_window(layer))
    return Step("depthwise", operands, (layer.input,), layer.output, dealt.size, dealt.local, index)


def _conv(layer: Conv, index: int, source: Planes, target: Planes, traits: Traits) -> Step:
    cpu = traits.kind == "cpu"
    outputs = CPU_OUTPUTS if cpu else LANES
    if layer.weights.shape[2:] == (1, 1) and layer.stride == (1, 1) and not any(layer.pads):
        source, target = (Planes(side.channels, 1, side.pixels) for side in (source, target))  # one long row
    tiled, rest, size, local = _cpu_tiles(layer, target, traits) if cpu else _gpu_tiles(target, traits)
    kernel = f"conv{'' if tiled else '_pixel'}{'_wide' if is_wide(layer) else ''}"
    biases, scales = (per_channel(values, outputs) for values in (layer.bias, layer.scale))
    constants = (matrix_weights(layer, outputs, inputs_first=cpu), biases, scales)
    shape = (source.blocks, source.height, source.width, target.blocks, target.height, target.width)
    operands: Operands = (layer.input, layer.output, *constants, *shape, *_window(layer), *rest)
    return Step(kernel, operands, (layer.input,), layer.output, size, local, index)


Tiles = tuple[bool, tuple[int, ...], Size3, Size3]  # whether of several pixels; the kernel's last numbers


def _cpu_tiles(layer: Conv, target: Planes, traits: Traits) -> Tiles:
    tiled = target.pixels > 1
    tiles = blocks(target.pixels, CPU_TILE) if tiled else 1
    outputs = blocks(target.channels, CPU_OUTPUTS)
    parts = min(outputs, blocks(CPU_SHARE * traits.units, tiles))
    span = blocks(outputs, parts)
    largest = int(np.abs(layer.weights.astype(np.int32)).max(initial=1))
    chunk = max(1, min(CPU_WORDS, EXACT // (LANES * 128 * largest)))
    return tiled, (span, chunk), (tiles, blocks(outputs, span), 1), (1, 1, 1)


def _gpu_tiles(target: Planes, traits: Traits) -> Tiles:
    reach = blocks(target.pixels, GPU_TILE)
    tiled = reach * target.blocks >= GPU_BUSY * traits.units
    reach = reach if tiled else target.pixels
    return tiled, (reach,), *_line(reach, target.blocks, traits)


def _line(items: int, parts: int, traits: Traits) -> tuple[Size3, Size3]:
    width = GPU_LINE if traits.group >= GPU_LINE else 1
    return (_up(items, width), 1, parts), (width, 1, 1)


def _window(layer: Conv) -> tuple[int, ...]:
    shape = (*layer.weights.shape[2:], *layer.stride, *layer.dilation, *layer.pads[:2])
    return (*shape, _word(layer.pad_value), layer.zero_point, layer.low, layer.high)


def _up(number: int, step: int) -> int:
    return blocks(number, step) * step


def _word(value: int) -> int:
    """An int8 four times."""
    return _signed((value & 0xFF) * 0x01010101)


def _signed(word: int) -> int:
    """The lowest 32 bits as a signed number."""
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
