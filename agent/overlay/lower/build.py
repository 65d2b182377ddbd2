"""Layers of a segment as operations over values on the chip; refuses what the overlay cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.overlay.graph import Add, Conv, Layer, Pool, Tensor
from agent.overlay.lower import weights as pack
from agent.overlay.lower.add import AddOp
from agent.overlay.lower.conv import ConvOp, packed_columns
from agent.overlay.lower.depthwise import DepthwiseOp
from agent.overlay.lower.ops import Op, Shape
from agent.overlay.lower.pool import PoolOp
from agent.overlay.lower.views import Unplaceable, Window, ceil_div
from agent.overlay.program import Binding
from agent.overlay.spec import Overlay

MOST_COUNT = 4096  # of one loop
MOST_STRIDE = 255
SCALES = (2.0**-60, 2.0**30)  # that the requantiser takes


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor between layers, from the operation that makes (or first reads) it to the last one that reads it.

    ``source``: how the host lays it out when it comes from there (offset still 0). ``leaves``: the host reads it.
    """

    name: str
    shape: Shape
    first: int
    last: int
    source: Binding | None
    leaves: bool


@dataclass(frozen=True, slots=True)
class Work:
    """A segment to be planned; ``names[i]``: the values that operation i reads, its output last."""

    spec: Overlay
    layers: tuple[Layer, ...]
    ops: tuple[Op, ...]
    names: tuple[tuple[str, ...], ...]
    values: Mapping[str, Value]


def build(
    spec: Overlay, layers: Sequence[Layer], tensors: Mapping[str, Tensor], wanted: frozenset[str]
) -> Work:
    """``wanted``: tensors that the host or another segment reads. Raises Unplaceable."""
    made = {layer.output for layer in layers}
    ops: list[Op] = []
    names: list[tuple[str, ...]] = []
    sources: dict[str, Binding] = {}
    for index, layer in enumerate(layers):
        try:
            reads = (layer.a, layer.b) if isinstance(layer, Add) else (layer.input,)
            if _packs(layer, tensors, made):
                assert isinstance(layer, Conv)
                op, binding = _packed(spec, layer, tensors[layer.input], tensors[layer.output])
                reads = (f"{layer.input} packed for {layer.name}",)
                sources[reads[0]] = binding
            else:
                op = _plain(spec, layer, tensors)
                for name in reads:
                    if name not in made:
                        sources[name] = _planes(spec, tensors[name])
        except Unplaceable as error:
            raise Unplaceable(index, error.why) from None
        ops.append(op)
        names.append((*reads, layer.output))
    return Work(spec, tuple(layers), tuple(ops), tuple(names), _values(ops, names, sources, wanted))


def _values(
    ops: Sequence[Op],
    names: Sequence[tuple[str, ...]],
    sources: Mapping[str, Binding],
    wanted: frozenset[str],
) -> dict[str, Value]:
    uses: dict[str, list[int]] = {}
    shapes: dict[str, Shape] = {}
    for index, (op, its) in enumerate(zip(ops, names, strict=True)):
        for which, name in enumerate(its):
            uses.setdefault(name, []).append(index)
            shapes[name] = op.shape if which == len(its) - 1 else op.input_shape(which)
    return {
        name: Value(name, shapes[name], at[0], at[-1], sources.get(name), name in wanted)
        for name, at in uses.items()
    }


def _shape(spec: Overlay, tensor: Tensor) -> Shape:
    return Shape(ceil_div(tensor.channels, spec.lanes), tensor.height, tensor.width)


def _planes(spec: Overlay, tensor: Tensor) -> Binding:
    return Binding(tensor, 0, _shape(spec, tensor).words * spec.lanes)


def _packs(layer: Layer, tensors: Mapping[str, Tensor], made: set[str]) -> bool:
    """Whether the input of a first convolution has few channels and comes from the host, which packs them."""
    return (
        isinstance(layer, Conv)
        and not layer.depthwise
        and layer.input not in made
        and tensors[layer.input].channels <= 4
    )


def _windows(layer: Conv | Pool, tensor: Tensor) -> tuple[Window, Window]:
    kernel = layer.kernel if isinstance(layer, Pool) else layer.weights.shape[2:]
    dilation = layer.dilation if isinstance(layer, Conv) else (1, 1)
    (kh, kw), (dy, dx), (sy, sx) = kernel, dilation, layer.stride
    if max(dy, dx, sy, sx) > MOST_STRIDE:
        raise Unplaceable(0, f"strides and dilations go up to {MOST_STRIDE}, not {max(dy, dx, sy, sx)}")
    if max(kh, kw) > MOST_COUNT:
        raise Unplaceable(0, f"kernels have up to {MOST_COUNT} rows and columns, not {max(kh, kw)}")
    return (
        Window((kh - 1) * dy + 1, sy, layer.pads[0], tensor.height),
        Window((kw - 1) * dx + 1, sx, layer.pads[1], tensor.width),
    )


def _check_conv(layer: Conv) -> None:
    low, high = float(layer.scale.min()), float(layer.scale.max())
    if not (SCALES[0] < low and high < SCALES[1]):
        raise Unplaceable(
            0, f"an output scale of {low if low <= SCALES[0] else high:g} is outside 2^-60..2^30"
        )
    if max(layer.weights.shape[:2]) > MOST_COUNT * 8:
        raise Unplaceable(0, f"it has {max(layer.weights.shape[:2])} channels, more than {MOST_COUNT * 8}")


def _plain(spec: Overlay, layer: Layer, tensors: Mapping[str, Tensor]) -> Op:
    shape = _shape(spec, tensors[layer.output])
    if isinstance(layer, Add):
        return AddOp(spec, layer, shape)
    source = _shape(spec, tensors[layer.input])
    windows = _windows(layer, tensors[layer.input])
    if isinstance(layer, Pool):
        if not SCALES[0] < layer.scale < SCALES[1]:
            raise Unplaceable(0, f"an output scale of {layer.scale:g} is outside 2^-60..2^30")
        return PoolOp(spec, layer, source, shape, windows)
    _check_conv(layer)
    if not layer.depthwise:
        return ConvOp(spec, layer, source, shape, windows, pack.plane_passes(layer.weights, spec.lanes))
    if DepthwiseOp.fits(spec, layer, shape):
        return DepthwiseOp(spec, layer, source, shape, windows)
    passes = pack.diagonal_passes(layer.weights, spec.lanes)
    return ConvOp(spec, layer, source, shape, windows, passes, diagonal=True)


def _packed(spec: Overlay, layer: Conv, tensor: Tensor, output: Tensor) -> tuple[Op, Binding]:
    _check_conv(layer)
    _windows(layer, tensor)
    pixels, stack = spec.lanes // 4, 4 // tensor.channels
    kernel = pack.dilated(layer.weights, layer.dilation)
    passes = pack.packed_passes(kernel, stack, spec.lanes)
    down = Window((passes.shape[1] - 1) * stack + 1, layer.stride[0], 0, 0)
    rows = down.first(output.height - 1) + down.kernel
    across = Window(passes.shape[2] * pixels, layer.stride[1], 0, 0)
    columns = packed_columns(across, passes.shape[2], output.width, pixels)
    windows = (
        Window(down.kernel, down.stride, 0, rows),
        Window(across.kernel, across.stride, 0, columns),
    )
    source = Shape(1, rows, columns // pixels)
    op = ConvOp(spec, layer, source, _shape(spec, output), windows, passes, stack=stack)
    nbytes = source.words * spec.lanes
    return op, Binding(tensor, 0, nbytes, stack, layer.pads, rows, columns, layer.pad_value)
