"""Each layer as the launch of a kernel: which one, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agent.devices.opencl.dealing import (
    CPU_OUTPUTS,
    CPU_VECTOR,
    Planes,
    Size3,
    Windows,
    deal,
    deal_line,
    deal_tiles,
)
from agent.devices.opencl.plan import Traits
from agent.devices.opencl.weights import LANES, depthwise_weights, is_wide, matrix_weights, per_channel
from agent.overlay.graph import Add, Conv, Layer, Pool, Tensor

CPU_WORDS = 128  # kernels/conv_cpu.cl: words of four inputs that are summed up in floats
EXACT = 1 << 24  # float32 holds every integer up to here


@dataclass(frozen=True, slots=True)
class Raw:
    """A tensor's bytes as the source model holds them, on their way to the device (``inward``) or back."""

    name: str
    inward: bool


Held = str | Raw  # what a buffer holds: a tensor in blocks by its name, or as it crosses
Operand = Held | bytes | int  # bytes: a constant's contents
Operands = tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A launch before its tensors have buffers: see ``plan.Launch``."""

    kernel: str
    operands: Operands
    reads: tuple[Held, ...]
    writes: Held
    size: Size3
    local: Size3
    layer: int | None


def planes_of(tensor: Tensor) -> Planes:
    return Planes(tensor.channels, tensor.height, tensor.width)


def crossing(tensor: Tensor, traits: Traits, *, inward: bool) -> Step:
    """The kernel that packs an input or unpacks an output."""
    planes, name, raw = planes_of(tensor), tensor.name, Raw(tensor.name, inward)
    ends: tuple[Held, Held] = (raw, name) if inward else (name, raw)
    dealt = deal(planes, Windows(), traits)
    numbers = (
        *(planes.channels, planes.height, planes.width, int(tensor.layout == "nhwc")),
        *(0x80 if tensor.dtype == "UINT8" else 0, *dealt.each),
    )
    kernel = "pack" if inward else "unpack"
    return Step(kernel, (*ends, *numbers), ends[:1], ends[1], dealt.size, dealt.local, None)


def lower(layer: Layer, index: int, sizes: Mapping[str, Planes], traits: Traits) -> Step:
    """The kernel of a layer; ``sizes`` of its tensors by name."""
    if isinstance(layer, Add):
        return _add(layer, index, sizes[layer.output], traits)
    source, target = sizes[layer.input], sizes[layer.output]
    if isinstance(layer, Pool):
        return _pool(layer, index, source, target, traits)
    return (_depthwise if layer.depthwise else _conv)(layer, index, source, target, traits)


def _add(layer: Add, index: int, made: Planes, traits: Traits) -> Step:
    dealt = deal_line(made, traits)
    low, high = _signed(layer.offset), layer.offset >> 32
    numbers = (layer.ratio_a, layer.ratio_b, low, high, layer.shift, layer.low, layer.high)
    operands: Operands = (layer.a, layer.b, layer.output, made.pixels, *dealt.each, *numbers)
    return Step("add", operands, (layer.a, layer.b), layer.output, dealt.size, dealt.local, index)


def _pool(layer: Pool, index: int, source: Planes, target: Planes, traits: Traits) -> Step:
    dealt = deal(target, Windows(layer.kernel, layer.stride), traits)
    shape = (source.height, source.width, target.height, target.width, *dealt.each)
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
    dealt = deal(target, Windows((height, width), layer.stride, layer.dilation), traits)
    weights = depthwise_weights(layer, CPU_VECTOR if traits.kind == "cpu" else 1)
    constants = (weights, per_channel(layer.bias), per_channel(layer.scale))
    shape = (source.blocks, source.height, source.width, target.height, target.width, *dealt.each)
    operands: Operands = (layer.input, layer.output, *constants, *shape, *_window(layer))
    return Step("depthwise", operands, (layer.input,), layer.output, dealt.size, dealt.local, index)


def _conv(layer: Conv, index: int, source: Planes, target: Planes, traits: Traits) -> Step:
    cpu = traits.kind == "cpu"
    outputs = CPU_OUTPUTS if cpu else LANES
    if layer.weights.shape[2:] == (1, 1) and layer.stride == (1, 1) and not any(layer.pads):
        source, target = (Planes(side.channels, 1, side.pixels) for side in (source, target))  # one long row
    tiled, dealt = deal_tiles(target, traits)
    kernel = f"conv{'' if tiled else '_pixel'}{'_wide' if is_wide(layer) else ''}"
    biases, scales = (per_channel(values, outputs) for values in (layer.bias, layer.scale))
    constants = (matrix_weights(layer, outputs, inputs_first=cpu), biases, scales)
    shape = (source.blocks, source.height, source.width, target.blocks, target.height, target.width)
    last = (*dealt.each, _exact_words(layer)) if cpu else dealt.each
    operands: Operands = (layer.input, layer.output, *constants, *shape, *_window(layer), *last)
    return Step(kernel, operands, (layer.input,), layer.output, dealt.size, dealt.local, index)


def _exact_words(layer: Conv) -> int:
    """Words of four inputs whose products, however they are summed, stay whole in float32."""
    largest = int(np.abs(layer.weights.astype(np.int32)).max(initial=1))
    return max(1, min(CPU_WORDS, EXACT // (LANES * 128 * largest)))


def _window(layer: Conv) -> tuple[int, ...]:
    shape = (*layer.weights.shape[2:], *layer.stride, *layer.dilation, *layer.pads[:2])
    return (*shape, _word(layer.pad_value), layer.zero_point, layer.low, layer.high)


def _word(value: int) -> int:
    """An int8 four times."""
    return _signed((value & 0xFF) * 0x01010101)


def _signed(word: int) -> int:
    """The lowest 32 bits as a signed number."""
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
