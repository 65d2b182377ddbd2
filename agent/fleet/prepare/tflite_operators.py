"""TFLite's float operators in ONNX. Each function raises Misfit, with the reason, for a form that is not converted.

What the operators mean is in TFLite's schema (schema.fbs) and its kernels: weights of CONV_2D are [out, height, width,
in], of DEPTHWISE_CONV_2D [1, height, width, out], of FULLY_CONNECTED [out, in]; padding SAME puts the odd one last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.fleet.prepare.tflite_graph import Graph
from agent.overlay.importers.layers import Window, same_pads
from agent.overlay.importers.tflite_model import Operator

SAME = 0  # schema.fbs, Padding


class Misfit(Exception):
    """Why an operator is not converted; never leaves ``convert``."""


def _convolution(graph: Graph, operator: Operator) -> None:
    weights = _weights(graph, operator).transpose(0, 3, 1, 2)
    channels = graph.tensor(operator.inputs[0]).shape[-1]
    if channels % weights.shape[1]:
        raise Misfit(f"its weights take {weights.shape[1]} of {channels} channels")
    _convolve(graph, operator, weights, channels // weights.shape[1])


def _depthwise(graph: Graph, operator: Operator) -> None:
    weights = _weights(graph, operator)[0].transpose(2, 0, 1)[:, None]  # to [out, 1, height, width]
    _convolve(graph, operator, weights, graph.tensor(operator.inputs[0]).shape[-1])


def _convolve(graph: Graph, operator: Operator, weights: NDArray[np.float32], groups: int) -> None:
    options, output = operator.options, operator.outputs[0]
    kernel = (weights.shape[2], weights.shape[3])
    dilation = (options.dilationHFactor or 1, options.dilationWFactor or 1)
    window = Window(kernel, (options.strideH, options.strideW), dilation=dilation)
    inputs = [
        graph.turned(_source(operator)),
        graph.constant(f"{graph.label(output)}.weights", np.ascontiguousarray(weights)),
    ]
    graph.made(
        output, "Conv", inputs + _bias(graph, operator), turned=True, activation=_activation(operator),
        kernel_shape=list(kernel), strides=list(window.stride), dilations=list(dilation), group=groups,
        pads=_pads(graph, operator, window),
    )  # fmt: skip


def _pads(graph: Graph, operator: Operator, window: Window) -> list[int]:
    if operator.options.padding != SAME:
        return [0, 0, 0, 0]
    _, height, width, _ = graph.tensor(operator.inputs[0]).shape
    return list(same_pads((height, width), window))


def _connected(graph: Graph, operator: Operator) -> None:
    source, output = _source(operator), operator.outputs[0]
    weights = _weights(graph, operator)
    if operator.options.weightsFormat:
        raise Misfit("its weights are shuffled")
    if len(graph.tensor(output).shape) != 2:
        raise Misfit("its result is no matrix")
    name = graph.plain(source)
    if graph.tensor(source).shape != (1, weights.shape[1]):
        shape = graph.constant(f"{graph.label(output)}.shape", np.array([-1, weights.shape[1]], np.int64))
        name = graph.node("Reshape", [name, shape], f"{graph.label(output)}.rows")
    inputs = [name, graph.constant(f"{graph.label(output)}.weights", weights), *_bias(graph, operator)]
    graph.made(output, "Gemm", inputs, turned=False, activation=_activation(operator), transB=1)


def _addition(graph: Graph, operator: Operator) -> None:
    output = operator.outputs[0]
    tensors = [graph.tensor(each) for each in operator.inputs]
    if any(each.data is not None for each in tensors):
        values = [
            graph.constant(each.name, graph.weights(each.name))
            if each.data is not None
            else graph.plain(each.name)
            for each in tensors
        ]
        graph.made(output, "Add", values, turned=False, activation=_activation(operator))
        return
    turned = len({each.shape for each in tensors}) == 1 and any(
        graph.is_turned(each.name) for each in tensors
    )
    values = [graph.turned(each.name) if turned else graph.plain(each.name) for each in tensors]
    graph.made(output, "Add", values, turned=turned, activation=_activation(operator))


def _average_pool(graph: Graph, operator: Operator) -> None:
    _, height, width, _ = graph.tensor(operator.inputs[0]).shape
    options = operator.options
    if (options.filterHeight, options.filterWidth) == (height, width) and options.padding != SAME:
        inputs = [graph.turned(_source(operator))]
        graph.made(
            operator.outputs[0], "GlobalAveragePool", inputs, turned=True, activation=_activation(operator)
        )
    else:
        _pool(graph, operator, "AveragePool", count_include_pad=0)


def _max_pool(graph: Graph, operator: Operator) -> None:
    _pool(graph, operator, "MaxPool")


def _pool(graph: Graph, operator: Operator, kind: str, **attributes: Any) -> None:
    options = operator.options
    window = Window((options.filterHeight, options.filterWidth), (options.strideH, options.strideW))
    graph.made(
        operator.outputs[0], kind, [graph.turned(_source(operator))], turned=True, activation=_activation(operator),
        kernel_shape=list(window.kernel), strides=list(window.stride), pads=_pads(graph, operator, window),
        **attributes,
    )  # fmt: skip


def _mean(graph: Graph, operator: Operator) -> None:
    source, output = _source(operator), operator.outputs[0]
    shape, axes = graph.tensor(source).shape, graph.tensor(operator.inputs[1]).data
    if axes is None or len(shape) != 4 or {int(axis) % 4 for axis in axes.reshape(-1)} != {1, 2}:
        raise Misfit("only a mean over height and width is converted")
    if len(graph.tensor(output).shape) == 4:
        graph.made(output, "GlobalAveragePool", [graph.turned(source)], turned=True)
        return
    pooled = graph.node("GlobalAveragePool", [graph.turned(source)], f"{graph.label(output)}.pixel")
    graph.made(output, "Flatten", [pooled], turned=False)


def _reshape(graph: Graph, operator: Operator) -> None:
    source, output = _source(operator), operator.outputs[0]
    before, after = graph.tensor(source).shape, graph.tensor(output).shape
    if before[:1] != after[:1] and graph.tensor(source).free:
        raise Misfit("it moves the batch, which is open")
    first = 0 if before[:1] == after[:1] else after[0]
    shape = graph.constant(f"{graph.label(output)}.shape", np.array([first, *after[1:]], np.int64))
    # One pixel has the same bytes in either order.
    pixel = len(before) == 4 and math.prod(before[1:3]) == 1 and graph.is_turned(source)
    name = graph.turned(source) if pixel else graph.plain(source)
    graph.made(output, "Reshape", [name, shape], turned=False)


def _softmax(graph: Graph, operator: Operator) -> None:
    output, name = operator.outputs[0], graph.plain(_source(operator))
    if operator.options.beta != 1.0:
        beta = graph.constant(f"{graph.label(output)}.beta", np.array(operator.options.beta, np.float32))
        name = graph.node("Mul", [name, beta], f"{graph.label(output)}.scaled")
    graph.made(output, "Softmax", [name], turned=False, axis=-1)


def _relu(activation: int) -> Callable[[Graph, Operator], None]:
    def make(graph: Graph, operator: Operator) -> None:
        source, output = _source(operator), operator.outputs[0]
        turned = graph.is_turned(source)
        name = graph.turned(source) if turned else graph.plain(source)
        graph.made(output, "Identity", [name], turned=turned, activation=activation)

    return make


def _pad(graph: Graph, operator: Operator) -> None:
    source, output = _source(operator), operator.outputs[0]
    pads = graph.tensor(operator.inputs[1]).data
    if pads is None or pads.shape != (4, 2):
        raise Misfit("only constant padding of pictures is converted")
    order = pads[[0, 3, 1, 2]].T.reshape(-1).astype(np.int64)
    inputs = [graph.turned(source), graph.constant(f"{graph.label(output)}.pads", order)]
    graph.made(output, "Pad", inputs, turned=True)


def _source(operator: Operator) -> str:
    name = operator.inputs[0]
    if name is None:
        raise Misfit("it has no input")
    return name


def _weights(graph: Graph, operator: Operator) -> NDArray[np.float32]:
    tensor = graph.tensor(operator.inputs[1])
    if tensor.data is None or tensor.dtype not in ("FP32", "INT8"):
        raise Misfit(f"its weights are {tensor.dtype}, or computed")
    return graph.weights(tensor.name)


def _bias(graph: Graph, operator: Operator) -> list[str]:
    name = operator.inputs[2] if len(operator.inputs) > 2 else None
    if name is None:
        return []
    tensor = graph.tensor(name)
    if tensor.data is None or tensor.dtype != "FP32":
        raise Misfit(f"its bias is {tensor.dtype}, or computed")
    return [graph.constant(f"{graph.label(operator.outputs[0])}.bias", graph.weights(name))]


def _activation(operator: Operator) -> int:
    activation = int(getattr(operator.options, "fusedActivationFunction", 0))
    if activation not in (0, 1, 2, 3):
        raise Misfit(f"its fused activation is number {activation} of the schema")
    return activation


OPERATORS: dict[str, Callable[[Graph, Operator], None]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _connected,
    "ADD": _addition,
    "AVERAGE_POOL_2D": _average_pool,
    "MAX_POOL_2D": _max_pool,
    "MEAN": _mean,
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
    "RELU": _relu(1),
    "RELU_N1_TO_1": _relu(2),
    "RELU6": _relu(3),
    "PAD": _pad,
}
