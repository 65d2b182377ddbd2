"""Layers out of the numbers of a quantised operator, whichever format it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import UnsupportedModel
from agent.overlay.graph import Add, Conv, Pads, Pair, Pool
from agent.overlay.importers.building import (
    Builder,
    Order,
    Output,
    Unfit,
    Value,
    plane_order,
    positions_of,
    same,
)

SMALLEST_SCALE, LARGEST_SCALE = 2.0**-60, 2.0**30  # between which the hardware's float32 product holds
LOWEST = -128  # of int8; what padding is to a maximum
LARGEST_WINDOW = 4096  # of an average


@dataclass(frozen=True, slots=True)
class Weights:
    """``values``: integers less their zero point, ``[out, in / groups, kh, kw]`` or ``[out, in]``.

    ``scales``: float32 ``[out]``; ``bias``: int32 ``[out]`` in steps of input scale x weight scale.
    """

    values: NDArray[np.int32]
    scales: NDArray[np.float32]
    bias: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """What slides over the input."""

    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    def output(self, height: int, width: int) -> Pair:
        """Rows and columns of the output. Raises Unfit when there are none."""
        top, left, bottom, right = self.pads
        padded = (height + top + bottom, width + left + right)
        extent = [step * (size - 1) + 1 for size, step in zip(self.kernel, self.dilation, strict=True)]
        rows, columns = ((p - e) // s + 1 for p, e, s in zip(padded, extent, self.stride, strict=True))
        if rows < 1 or columns < 1 or min(self.pads) < 0:
            raise Unfit(f"a window of {extent} does not fit into {list(padded)}")
        return rows, columns


def same_pads(size: Pair, window: Window, *, upper: bool = True) -> Pads:
    """Padding so that the output has ceil(size / stride); the odd element is at the end, or at the start."""
    starts, ends = [], []
    for length, kernel, stride, dilation in zip(
        size, window.kernel, window.stride, window.dilation, strict=True
    ):
        total = max((-(-length // stride) - 1) * stride + dilation * (kernel - 1) + 1 - length, 0)
        starts.append(total // 2 if upper else total - total // 2)
        ends.append(total - starts[-1])
    return starts[0], starts[1], ends[0], ends[1]


def planes(value: Value, layout: str) -> Order:
    """The elements of a value with batch, height, width and channels (or one size less: no height) as [C,H,W].

    Raises Unfit, and UnsupportedModel for a batch of several.
    """
    order = value.order
    if order.ndim == 3:
        order = order[:, :, None] if layout == "nchw" else order[:, None]
    if order.ndim != 4:
        raise Unfit(f"its input has shape {list(value.shape)}, not batch, channels, height and width")
    if order.shape[0] != 1:
        raise UnsupportedModel(
            f"tensor {value.base!r} has a batch of {order.shape[0]}; the overlay takes one sample at a time: export "
            "the model with batch 1, or with an open one"
        )
    sample: Order = order[0]
    return sample if layout == "nchw" else sample.transpose(2, 0, 1)


def convolution(
    builder: Builder, source: str, weights: Weights, window: Window, groups: int, output: Output
) -> None:
    """A convolution; groups other than one channel each become a dense one with zeros. Raises Unfit."""
    value = builder.values[source]
    arranged = planes(value, output.layout)
    channels, height, width = arranged.shape
    outputs, each = weights.values.shape[:2]
    if each * groups != channels or outputs % groups:
        raise Unfit(f"{groups} groups of {each} inputs do not make {channels} channels")
    rows, columns = window.output(height, width)
    depthwise = groups > 1 and groups == channels == outputs
    kernel = weights.values if groups == 1 or depthwise else _dense(weights.values, groups)
    name = builder.read(source, arranged)
    macs = weights.values.size * rows * columns
    _emit(
        builder, name, value, Weights(kernel, weights.scales, weights.bias), window, output, depthwise, macs,
        (outputs, rows, columns),
    )  # fmt: skip


def connected(builder: Builder, source: str, weights: Weights, output: Output) -> None:
    """A fully connected layer, ``weights`` ``[out, in]``: a convolution with a kernel as large as its input.

    Several rows of inputs are a column of pixels under a 1 x 1 kernel. Raises Unfit.
    """
    value = builder.values[source]
    outputs, inputs = weights.values.shape
    rows, rest = divmod(value.order.size, inputs)
    if rest or value.shape[-1:] != (inputs,):
        raise Unfit(f"its input has shape {list(value.shape)}, the weights take {inputs}")
    if rows == 1:
        if value.base not in builder.tensors:
            builder.read(value.base, plane_column(builder.values[value.base]))
        tensor = builder.tensors[value.base]
        name, order = value.base, positions_of(value)[plane_order(tensor)]
        kernel = weights.values[:, order]
    else:
        name = builder.read(source, value.order.reshape(rows, 1, inputs).transpose(2, 0, 1))
        kernel = weights.values[:, :, None, None]
        output = replace(output, layout="nhwc")
    _emit(
        builder, name, value, Weights(kernel, weights.scales, weights.bias), Window(kernel.shape[2:]), output,
        False, weights.values.size * rows, (outputs, rows, 1),
    )  # fmt: skip


def plane_column(value: Value) -> Order:
    """A tensor that no layer has touched, every element a channel."""
    return value.order.reshape(-1, 1, 1)


def _dense(values: NDArray[np.int32], groups: int) -> NDArray[np.int32]:
    outputs, each, *kernel = values.shape
    dense = np.zeros((groups, outputs // groups, groups, each, *kernel), values.dtype)
    for group, part in enumerate(values.reshape(groups, outputs // groups, each, *kernel)):
        dense[group, :, group] = part
    return dense.reshape(outputs, groups * each, *kernel)


def _emit(
    builder: Builder, name: str, value: Value, weights: Weights, window: Window, output: Output,
    depthwise: bool, macs: int, shape: tuple[int, int, int],
) -> None:  # fmt: skip
    scale = check_scale(value.scale * weights.scales / output.scale)
    sums = weights.values.reshape(len(weights.values), -1).sum(axis=1, dtype=np.int64)
    bias = (weights.bias - value.zero_point * sums).astype(np.int32)  # wraps, as the accumulator does
    builder.write(output, *shape)
    builder.layer(
        Conv(
            name=output.nodes[0],
            input=name,
            output=output.name,
            weights=np.ascontiguousarray(weights.values, np.int16),
            bias=bias,
            scale=np.broadcast_to(scale, bias.shape).copy(),
            stride=window.stride,
            pads=window.pads,
            dilation=window.dilation,
            depthwise=depthwise,
            pad_value=value.zero_point,
            zero_point=output.zero_point,
            low=output.low,
            high=output.high,
            macs=macs,
            nodes=output.nodes,
        )
    )


def check_scale(scale: Any) -> Any:
    """Raises Unfit for factors that the hardware cannot multiply by."""
    if not np.all((scale > SMALLEST_SCALE) & (scale < LARGEST_SCALE)):
        raise Unfit("the ratio of its scales is outside 2^-60 .. 2^30")
    return scale


def max_pool(builder: Builder, source: str, window: Window, output: Output) -> None:
    """Raises Unfit; scales and zero points of input and output must agree."""
    value = builder.values[source]
    if (value.scale, value.zero_point) != (output.scale, output.zero_point):
        raise Unfit("its input and output are quantised differently")
    if window.dilation != (1, 1):
        raise Unfit("a maximum over a dilated window is not built")
    _pool(builder, source, planes(value, output.layout), window, output, None)


def mean(builder: Builder, source: str, output: Output) -> None:
    """The mean over all pixels, as QLinearGlobalAveragePool computes it. Raises Unfit."""
    value = builder.values[source]
    arranged = planes(value, output.layout)
    size = np.float32(arranged[0].size)
    window = Window((arranged.shape[1], arranged.shape[2]))
    _pool(builder, source, arranged, window, output, _scaling(value, size, output))


def average_pool(builder: Builder, source: str, window: Window, output: Output) -> None:
    """TFLite's average of each window, without padding: half is rounded away from zero. Raises Unfit.

    A scale a little too large does that: sums of ``size`` bytes times 2^-20 are still far from 1 / (2 x size).
    """
    value = builder.values[source]
    size = window.kernel[0] * window.kernel[1]
    if any(window.pads):
        raise Unfit("an average over a padded window has no one divisor")
    if (value.scale, value.zero_point) != (output.scale, output.zero_point):
        raise Unfit("its input and output are quantised differently")
    if size > LARGEST_WINDOW:
        raise Unfit(f"its window has {size} elements, more than {LARGEST_WINDOW}")
    scaling = Scaling(np.float32((1 + 2.0**-20) / size), 0, 0)
    _pool(builder, source, planes(value, output.layout), window, output, scaling)


def rescale(builder: Builder, source: str, output: Output) -> None:
    """The same numbers in other steps, or clamped: an average over one pixel. Raises Unfit."""
    value = builder.values[source]
    arranged, layout = arrangement(builder, value, output.layout)
    made = replace(output, layout=layout)
    _pool(builder, source, arranged, Window((1, 1)), made, _scaling(value, np.float32(1), output))


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a sum becomes an average: rne((sum + bias) x scale) + zero_point."""

    scale: np.float32
    bias: int
    zero_point: int


def _scaling(value: Value, size: np.float32, output: Output) -> Scaling:
    """In the order in which ONNX Runtime's QLinearGlobalAveragePool rounds."""
    scale = check_scale(value.scale / (output.scale * size))
    return Scaling(scale, -value.zero_point * int(size), output.zero_point)


def _pool(
    builder: Builder, source: str, arranged: Order, window: Window, output: Output, scaling: Scaling | None
) -> None:
    """``scaling`` None: the maximum."""
    channels, height, width = arranged.shape
    rows, columns = window.output(height, width)
    name = builder.read(source, arranged)
    builder.write(output, channels, rows, columns)
    by = scaling or Scaling(np.float32(1), 0, 0)
    builder.layer(
        Pool(
            name=output.nodes[0],
            input=name,
            output=output.name,
            maximum=scaling is None,
            kernel=window.kernel,
            stride=window.stride,
            pads=window.pads,
            pad_value=LOWEST,
            bias=by.bias,
            scale=float(by.scale),
            zero_point=by.zero_point,
            low=output.low,
            high=output.high,
            nodes=output.nodes,
        )
    )


def arrangement(builder: Builder, value: Value, layout: str) -> tuple[Order, str]:
    """The value's elements as the planes of its base where that is plain, else as [C,H,W] or rows; the layout."""
    if value.base in builder.tensors:
        tensor = builder.tensors[value.base]
        order = plane_order(tensor)
        at = positions_of(value)[order]
        for each in ("nchw", "nhwc"):
            if same(plane_order(replace(tensor, layout=each)), at):
                return order, each
    try:
        return planes(value, layout), layout
    except Unfit:
        rows = value.order.reshape(-1, 1, value.shape[-1] if value.shape else 1)
        return rows.transpose(2, 0, 1), "nhwc"


def addition(
    builder: Builder, sources: Sequence[str], constants: tuple[int, int, int, int], output: Output
) -> None:
    """An element-wise sum; ``constants``: ratios, offset and shift of graph.Add. Raises Unfit."""
    a, b = (builder.values[source] for source in sources)
    if not a.shape == b.shape == output.shape:
        raise Unfit(f"it broadcasts {list(a.shape)} and {list(b.shape)}")
    order_a, layout = arrangement(builder, a, output.layout)
    order_b = b.order.reshape(-1)[positions_of(a)[order_a]]
    names = builder.read(sources[0], order_a), builder.read(sources[1], order_b)
    builder.write(replace(output, layout=layout), *order_a.shape)
    builder.layer(
        Add(output.nodes[0], *names, output.name, *constants, output.low, output.high, output.nodes)
    )
