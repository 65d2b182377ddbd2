"""TFLite's quantised operators as layers. Each function raises Unfit, with the reason, for what cannot be one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.overlay import layers
from agent.overlay.building import Builder, Output, Unfit
from agent.overlay.graph import Pads, Pair
from agent.overlay.layers import Weights, Window
from agent.overlay.tflite_model import Model, Operator, Tensor

LAYOUT = "nhwc"
SAME, VALID = 0, 1  # schema.fbs, Padding
# schema.fbs, ActivationFunctionType → real bounds
BOUNDS = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
ALONE = {"QUANTIZE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


def convolution(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    weights = _constant(model, operator, 1)
    values = _shifted(weights).transpose(0, 3, 1, 2)
    source = builder.values[str(operator.inputs[0])]
    groups = source.shape[-1] // values.shape[1]
    _convolve(builder, model, operator, pads, values, weights, groups)


def depthwise(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    weights = _constant(model, operator, 1)
    values = _shifted(weights)[0].transpose(2, 0, 1)[:, None]  # [1, kh, kw, out] → [out, 1, kh, kw]
    channels = builder.values[str(operator.inputs[0])].shape[-1]
    _convolve(builder, model, operator, pads, values, weights, channels)


def _convolve(
    builder: Builder, model: Model, operator: Operator, pads: Pads, values: NDArray[np.int32],
    weights: Tensor, groups: int,
) -> None:  # fmt: skip
    options = operator.options
    kernel: Pair = (values.shape[2], values.shape[3])
    dilation = (options.dilationHFactor or 1, options.dilationWFactor or 1)
    window = Window(kernel, (options.strideH, options.strideW), dilation=dilation)
    window = _padded(builder, operator, window, pads)
    source = str(operator.inputs[0])
    numbers = _weights(builder, model, operator, values, weights)
    layers.convolution(builder, source, numbers, window, groups, _output(model, operator))


def _padded(builder: Builder, operator: Operator, window: Window, pads: Pads) -> Window:
    """The window with the padding that TFLite adds to ``pads``, those of a PAD before it."""
    top, left, bottom, right = pads
    added: Pads = (0, 0, 0, 0)
    if operator.options.padding == SAME:
        shape = builder.values[str(operator.inputs[0])].shape
        if len(shape) != 4:
            raise Unfit(f"its input has shape {list(shape)}")
        added = layers.same_pads((shape[1] + top + bottom, shape[2] + left + right), window)
    total = (top + added[0], left + added[1], bottom + added[2], right + added[3])
    return Window(window.kernel, window.stride, total, window.dilation)


def connected(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    weights = _constant(model, operator, 1)
    if operator.options.weightsFormat:
        raise Unfit("its weights are shuffled")
    numbers = _weights(builder, model, operator, _shifted(weights), weights)
    layers.connected(builder, str(operator.inputs[0]), numbers, _output(model, operator))


def addition(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    layers.addition(builder, [str(each) for each in operator.inputs], _output(model, operator))


def average_pool(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    window = _pool_window(builder, operator)
    layers.average_pool(builder, str(operator.inputs[0]), window, _output(model, operator))


def max_pool(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    window = _pool_window(builder, operator)
    layers.max_pool(builder, str(operator.inputs[0]), window, _output(model, operator))


def _pool_window(builder: Builder, operator: Operator) -> Window:
    options = operator.options
    window = Window((options.filterHeight, options.filterWidth), (options.strideH, options.strideW))
    return _padded(builder, operator, window, (0, 0, 0, 0))


def mean(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    axes = model.tensors[str(operator.inputs[1])].data
    rank = len(builder.values[str(operator.inputs[0])].shape)
    if axes is None or rank != 4 or {int(axis) % rank for axis in axes.reshape(-1)} != {1, 2}:
        raise Unfit("only a mean over height and width is built")
    layers.mean(builder, str(operator.inputs[0]), _output(model, operator))


def rescale(builder: Builder, model: Model, operator: Operator, pads: Pads) -> None:
    layers.rescale(builder, str(operator.inputs[0]), _output(model, operator))


def _output(model: Model, operator: Operator) -> Output:
    tensor = model.tensors[operator.outputs[0]]
    scale, zero_point = np.float32(tensor.scales[0]), int(tensor.zero_points[0])
    low, high = _bounds(operator, scale, zero_point)
    return Output(
        tensor.name, tensor.shape, LAYOUT, scale, zero_point, tensor.dtype, low, high, (operator.node,)
    )


def _bounds(operator: Operator, scale: np.float32, zero_point: int) -> Pair:
    """int8 bounds of the fused activation."""
    activation = ALONE.get(operator.kind)
    if activation is None:
        activation = getattr(operator.options, "fusedActivationFunction", 0)
    if activation not in BOUNDS:
        raise Unfit(f"fused activation {activation} is no clamp")
    low, high = (
        None if bound is None else int(np.clip(zero_point + round(bound / float(scale)), -128, 127))
        for bound in BOUNDS[activation]
    )
    return -128 if low is None else low, 127 if high is None else high


def _constant(model: Model, operator: Operator, index: int) -> Tensor:
    name = operator.inputs[index]
    if name is None or model.tensors[name].data is None:
        raise Unfit(f"input {index} is computed, not a constant")
    return model.tensors[name]


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


def _weights(
    builder: Builder, model: Model, operator: Operator, values: NDArray[np.int32], weights: Tensor
) -> Weights:
    outputs = len(values)
    scales = np.broadcast_to(weights.scales, (outputs,))
    name = operator.inputs[2] if len(operator.inputs) > 2 else None
    if name is None:
        return Weights(values, scales, np.zeros(outputs, np.int64))
    bias = model.tensors[name]
    if bias.data is None or bias.dtype != "INT32":
        raise Unfit(f"its bias {name!r} is {bias.dtype}, not a constant INT32")
    return Weights(values, scales, np.broadcast_to(bias.data.astype(np.int64).reshape(-1), (outputs,)))
