"""TFLite's quantised operators as layers. Each function raises Unfit, with the reason, for what cannot be one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.arith import MAX_RATIO, MAX_SHIFT, MIN_RATIO
from agent.overlay.graph import Pads, Pair
from agent.overlay.importers import layers
from agent.overlay.importers.building import Builder, Output, Unfit
from agent.overlay.importers.layers import Weights, Window
from agent.overlay.importers.tflite_model import Model, Operator, Tensor

LAYOUT = "nhwc"
SAME = 0  # schema.fbs, Padding
XNNPACK_BITS = 21  # of the larger ratio in its additions
# schema.fbs, ActivationFunctionType: real bounds
BOUNDS = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
ALONE = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
NO_PADS: Pads = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Call:
    """An operator of a model; it reads ``source`` with ``pads`` (those of a PAD before it) around it."""

    model: Model
    operator: Operator
    source: str
    pads: Pads = NO_PADS

    @property
    def options(self) -> Any:
        return self.operator.options

    def constant(self, index: int) -> Tensor:
        name = self.operator.inputs[index]
        if name is None or self.model.tensors[name].data is None:
            raise Unfit(f"input {index} is computed, not a constant")
        return self.model.tensors[name]


def convolution(builder: Builder, call: Call) -> None:
    weights = call.constant(1)
    values = _shifted(weights).transpose(0, 3, 1, 2)
    groups = builder.values[call.source].shape[-1] // values.shape[1]
    _convolve(builder, call, values, weights, groups)


def depthwise(builder: Builder, call: Call) -> None:
    weights = call.constant(1)
    values = _shifted(weights)[0].transpose(2, 0, 1)[:, None]  # [1, kh, kw, out] to [out, 1, kh, kw]
    _convolve(builder, call, values, weights, builder.values[call.source].shape[-1])


def _convolve(builder: Builder, call: Call, values: NDArray[np.int32], weights: Tensor, groups: int) -> None:
    options = call.options
    kernel: Pair = (values.shape[2], values.shape[3])
    dilation = (options.dilationHFactor or 1, options.dilationWFactor or 1)
    window = _padded(builder, call, Window(kernel, (options.strideH, options.strideW), dilation=dilation))
    layers.convolution(builder, call.source, _weights(call, values, weights), window, groups, _output(call))


def _padded(builder: Builder, call: Call, window: Window) -> Window:
    """The window with the padding that TFLite adds to ``pads``."""
    top, left, bottom, right = call.pads
    added = NO_PADS
    if call.options.padding == SAME:
        shape = builder.values[call.source].shape
        if len(shape) != 4:
            raise Unfit(f"its input has shape {list(shape)}")
        added = layers.same_pads((shape[1] + top + bottom, shape[2] + left + right), window)
    total = (top + added[0], left + added[1], bottom + added[2], right + added[3])
    return Window(window.kernel, window.stride, total, window.dilation)


def connected(builder: Builder, call: Call) -> None:
    weights = call.constant(1)
    if call.options.weightsFormat:
        raise Unfit("its weights are shuffled")
    layers.connected(builder, call.source, _weights(call, _shifted(weights), weights), _output(call))


def addition(builder: Builder, call: Call) -> None:
    sources = [str(each) for each in call.operator.inputs]
    a, b = (builder.values[each] for each in sources)
    output = _output(call)
    ratios = a.scale / output.scale, b.scale / output.scale
    constants = sum_constants(ratios, (a.zero_point, b.zero_point), output.zero_point)
    layers.addition(builder, sources, constants, output)


def sum_constants(
    ratios: tuple[np.float32, np.float32], zero_points: Pair, zero_point: int
) -> tuple[int, int, int, int]:
    """Ratios, offset and shift of graph.Add for TFLite's ADD, as LiteRT's XNNPACK computes it: the larger ratio gets
    21 bits, and half is rounded up. Everything is doubled and one is added to the offset: then nothing is half.

    Ratios below 1/8 get fewer bits, as the shift has a limit. Raises Unfit for ratios that the hardware does not take.
    """
    if not all(MIN_RATIO < each < MAX_RATIO for each in ratios):
        raise Unfit(f"the ratios of its scales are outside {MIN_RATIO:g} .. {MAX_RATIO:g}")
    shift = min(XNNPACK_BITS - math.frexp(float(max(ratios)))[1], MAX_SHIFT - 1)
    steps = [round(math.ldexp(float(each), shift)) for each in ratios]
    offset = (zero_point << shift) - sum(z * each for z, each in zip(zero_points, steps, strict=True))
    return 2 * steps[0], 2 * steps[1], 2 * offset + 1, shift + 1


def average_pool(builder: Builder, call: Call) -> None:
    layers.average_pool(builder, call.source, _pool_window(builder, call), _output(call))


def max_pool(builder: Builder, call: Call) -> None:
    layers.max_pool(builder, call.source, _pool_window(builder, call), _output(call))


def _pool_window(builder: Builder, call: Call) -> Window:
    options = call.options
    kernel, stride = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    return _padded(builder, call, Window(kernel, stride))


def mean(builder: Builder, call: Call) -> None:
    axes = call.constant(1).data
    rank = len(builder.values[call.source].shape)
    if axes is None or rank != 4 or {int(axis) % rank for axis in axes.reshape(-1)} != {1, 2}:
        raise Unfit("only a mean over height and width is built")
    layers.mean(builder, call.source, _output(call))


def rescale(builder: Builder, call: Call) -> None:
    layers.rescale(builder, call.source, _output(call))


def _output(call: Call) -> Output:
    operator = call.operator
    tensor = call.model.tensors[operator.outputs[0]]
    scale, zero_point = np.float32(tensor.scales[0]), int(tensor.zero_points[0])
    low, high = _bounds(operator, scale, zero_point)
    return Output(
        tensor.name, tensor.shape, LAYOUT, scale, zero_point, tensor.dtype, low, high, (operator.node,)
    )


def _bounds(operator: Operator, scale: np.float32, zero_point: int) -> Pair:
    """int8 bounds of the fused activation, or of the operator that is one."""
    activation = ALONE.get(operator.kind, getattr(operator.options, "fusedActivationFunction", 0))
    if activation not in BOUNDS:
        raise Unfit(f"its fused activation (number {activation} of the schema) is no clamp")
    low, high = (
        None if bound is None else int(np.clip(zero_point + round(bound / float(scale)), -128, 127))
        for bound in BOUNDS[activation]
    )
    return -128 if low is None else low, 127 if high is None else high


def _shifted(weights: Tensor) -> NDArray[np.int32]:
    """INT8 weights less their zero points."""
    if weights.data is None or weights.dtype != "INT8" or not weights.scales.size:
        raise Unfit(f"its weights {weights.name!r} are {weights.dtype}, not quantised INT8")
    zero_points = weights.zero_points
    if zero_points.size > 1:
        shape = [1] * weights.data.ndim
        shape[weights.axis] = zero_points.size
        zero_points = zero_points.reshape(shape)
    return (weights.data.astype(np.int64) - zero_points).astype(np.int32)


def _weights(call: Call, values: NDArray[np.int32], weights: Tensor) -> Weights:
    outputs = len(values)
    scales = np.broadcast_to(weights.scales, (outputs,))
    if call.operator.inputs[2:] in ((), (None,)):
        return Weights(values, scales, np.zeros(outputs, np.int64))
    bias = call.constant(2)
    if bias.data is None or bias.dtype != "INT32":
        raise Unfit(f"its bias {bias.name!r} is {bias.dtype}, not INT32")
    return Weights(values, scales, np.broadcast_to(bias.data.astype(np.int64).reshape(-1), (outputs,)))
