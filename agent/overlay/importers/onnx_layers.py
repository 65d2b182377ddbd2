"""Quantised ONNX operations as layers. Each function raises Unfit, with the reason, for what cannot be one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.overlay import host
from agent.overlay.arith import add_constants
from agent.overlay.graph import Host, Pair
from agent.overlay.importers import layers
from agent.overlay.importers.building import Builder, Output, Unfit
from agent.overlay.importers.constant_sum import constant_addition
from agent.overlay.importers.layers import Weights
from agent.overlay.importers.onnx_match import Constant, Operand, Operation, Quant
from agent.overlay.importers.onnx_model import Model, Node
from agent.overlay.importers.onnx_windows import ceiled, window_of

LAYOUT = "nchw"


def make(builder: Builder, model: Model, operation: Operation) -> None:
    """Append what ``operation`` is: a layer, or another view of the same bytes. Raises Unfit."""
    if operation.why or operation.kind not in MAKERS:
        raise Unfit(operation.why or "the overlay has no such operator")
    operands = tuple(_settled(builder, model, each) for each in operation.operands)
    settled = replace(operation, operands=operands)
    if settled.quant is None:
        settled = replace(settled, quant=settled.operands[0].quant)
    if {quant_of(each).dtype for each in settled.operands} != {quant_of(settled).dtype}:
        raise Unfit("its inputs and output mix INT8 and UINT8")
    MAKERS[settled.kind](builder, model, settled)


def _settled(builder: Builder, model: Model, operand: Operand) -> Operand:
    """An operand whose reader and writer agree on what its bytes stand for, and which is looked at as it is read."""
    if operand.name not in builder.values:
        raise Unfit(f"tensor {operand.name!r} is no activation of the overlay")
    value = builder.values[operand.name]
    quant = operand.quant or Quant(value.scale, value.zero_point, value.dtype)
    builder.requantise(operand.name, quant.scale, quant.zero_point)
    name = operand.name
    for view in operand.views:
        made = f"{view.outputs[0]}:bytes"
        _look(builder, model, view, name, made)
        name = made
    return Operand(name, quant)


def _look(builder: Builder, model: Model, view: Node, source: str, target: str) -> None:
    """``target``: the bytes of ``source`` as a node for shapes sees them."""
    order = builder.values[source].order
    if view.op == "Transpose":
        perm = tuple(view.attributes.get("perm") or reversed(range(order.ndim)))
        via = Host("transpose", (source,), (target,), {"perm": perm}, (view.label,))
        builder.view(target, source, order.transpose(perm), via)
    else:
        shape = model.shape(view.outputs[0])
        via = Host("reshape", (source,), (target,), {"shape": shape}, (view.label,))
        builder.view(target, source, order.reshape(shape), via)


def quant_of(item: Operand | Operation) -> Quant:
    assert item.quant is not None  # settled
    return item.quant


def _convolution(builder: Builder, model: Model, operation: Operation) -> None:
    values, scales = _shifted(operation, 0)
    if values.ndim not in (3, 4):
        raise Unfit(f"it has {values.ndim - 2} spatial dimensions")
    if values.ndim == 3:
        values = values[:, :, None]
    shape = builder.values[operation.operands[0].name].shape
    window = window_of(operation.node, (values.shape[2], values.shape[3]), shape[2:])
    weights = _numbers(operation, values, scales)
    groups = operation.node.attributes.get("group", 1)
    layers.convolution(
        builder, operation.operands[0].name, weights, window, groups, _output(model, operation)
    )


def _connected(builder: Builder, model: Model, operation: Operation) -> None:
    attributes = operation.node.attributes
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise Unfit("it transposes its input, or its alpha or beta is not 1")
    transposed = operation.kind == "Gemm" and attributes.get("transB")
    values, scales = _shifted(operation, 0 if transposed else 1)
    if values.ndim != 2:
        raise Unfit(f"its weights have {values.ndim} dimensions")
    values = values if transposed else values.T
    weights = _numbers(operation, values, scales)
    layers.connected(builder, operation.operands[0].name, weights, _output(model, operation))


def _addition(builder: Builder, model: Model, operation: Operation) -> None:
    output = _output(model, operation)
    quants = [quant_of(each) for each in operation.operands]
    fixed = operation.weights
    if fixed is not None:
        quants.insert(0 if operation.swapped else 1, _quant_of_constant(fixed))
    first, second = quants
    constants = _sum_constants(first, second, output)
    if fixed is None:
        layers.addition(builder, [each.name for each in operation.operands], constants, output)
        return
    shape = builder.values[operation.operands[0].name].shape
    if np.broadcast_shapes(shape, fixed.values.shape) != shape:
        raise Unfit(f"its constant {list(fixed.values.shape)} is larger than {list(shape)}")
    signed = fixed.values if fixed.values.dtype == np.int8 else (fixed.values ^ np.uint8(0x80)).view(np.int8)
    ratio_a, ratio_b, offset, shift = constants
    ratios = (ratio_b, ratio_a, offset, shift) if operation.swapped else constants
    constant_addition(builder, operation.operands[0].name, np.broadcast_to(signed, shape), ratios, output)


def _quant_of_constant(constant: Constant) -> Quant:
    if constant.scales.size != 1 or constant.zero_points.size != 1:
        raise Unfit("its constant has several scales")
    unsigned = constant.values.dtype == np.uint8
    zero_point = int(constant.zero_points[0]) - (128 if unsigned else 0)
    return Quant(constant.scales[0], zero_point, "UINT8" if unsigned else "INT8")


def _sum_constants(a: Quant, b: Quant, output: Output) -> tuple[int, int, int, int]:
    if {a.dtype, b.dtype} != {output.dtype}:
        raise Unfit("its inputs and output mix INT8 and UINT8")
    constants = add_constants(
        float(a.scale),
        a.zero_point,
        float(b.scale),
        b.zero_point,
        float(output.scale),
        output.zero_point,
        output.low,
        output.high,
        unsigned=output.dtype == "UINT8",
    )
    if constants is None:
        raise Unfit("no integers give the sums that the float32 formula gives")
    return constants


def _maximum(builder: Builder, model: Model, operation: Operation) -> None:
    node = operation.node
    kernel = node.attributes["kernel_shape"]
    if len(kernel) not in (1, 2):
        raise Unfit(f"it has {len(kernel)} spatial dimensions")
    if any(node.outputs[1:]):
        raise Unfit("its indices are read")
    shape = builder.values[operation.operands[0].name].shape
    window = window_of(node, (1, *kernel) if len(kernel) == 1 else tuple(kernel), shape[2:])
    output = _output(model, operation)
    if node.attributes.get("ceil_mode"):
        window = ceiled(window, shape[2:], model.shape(node.outputs[0])[2:])
    layers.max_pool(builder, operation.operands[0].name, window, output)


def _mean(builder: Builder, model: Model, operation: Operation) -> None:
    layers.mean(builder, operation.operands[0].name, _output(model, operation))


def _identity(builder: Builder, model: Model, operation: Operation) -> None:
    """The same bytes in another shape; when the steps differ, other numbers as well."""
    operand = operation.operands[0]
    if operand.quant != operation.quant or operation.bounds:
        _check_exact(operation)
        layers.rescale(builder, operand.name, _output(model, operation))
        return
    name = operand.name
    for view in operation.views[:-1]:
        made = f"{view.outputs[0]}:bytes"
        _look(builder, model, view, name, made)
        name = made
    last = operation.views[-1] if operation.views else operation.nodes[-1]
    _look(builder, model, last, name, operation.output)


def _softmax(builder: Builder, model: Model, operation: Operation) -> None:
    """A host operator."""
    operand, quant = operation.operands[0], quant_of(operation)
    rank = len(builder.values[operand.name].shape)
    opset = operation.node.attributes.get("opset", model.opset)
    axis = operation.node.attributes.get("axis", -1 if opset >= 13 else 1) % rank
    if opset < 13 and axis != rank - 1:
        raise Unfit("it is over several axes")
    builder.on_host(operand.name)
    attributes = {
        "axis": axis,
        "scale": float(quant_of(operand).scale),
        "output_scale": float(quant.scale),
        "zero_point": quant.zero_point + (128 if quant.dtype == "UINT8" else 0),
    }
    nodes = tuple(each.label for each in operation.nodes)
    builder.steps.append(Host("qlinear_softmax", (operand.name,), (operation.output,), attributes, nodes))
    shape = builder.values[operand.name].shape
    builder.hold(operation.output, shape, quant.scale, quant.zero_point, quant.dtype)


MAKERS: dict[str, Callable[[Builder, Model, Operation], None]] = {
    "Conv": _convolution,
    "Gemm": _connected,
    "MatMul": _connected,
    "Add": _addition,
    "MaxPool": _maximum,
    "GlobalAveragePool": _mean,
    "Softmax": _softmax,
    "Identity": _identity,
}


def _check_exact(operation: Operation) -> None:
    """One multiplication must give what dequantise, clamp and quantise give, for all 256 bytes."""
    before, after = quant_of(operation.operands[0]), quant_of(operation)
    codes = np.arange(-128, 128).astype(np.int8)
    real = (codes.astype(np.float32) - np.float32(before.zero_point)) * before.scale
    for low, high in operation.bounds:
        real = np.clip(real, np.float32(low), np.float32(high))
    wanted = _quantise(real, after)
    low, high = bounds(operation)
    steps = np.rint((codes.astype(np.float32) - before.zero_point) * (before.scale / after.scale))
    if not np.array_equal(np.clip(steps + after.zero_point, low, high), wanted):
        raise Unfit("one multiplication does not give the numbers that dequantising and quantising gives")


def _quantise(real: NDArray[np.float32], quant: Quant) -> NDArray[np.int8]:
    attributes = {"scale": quant.scale, "zero_point": quant.zero_point, "dtype": "INT8"}
    return host.quantize(attributes, real)


def bounds(operation: Operation) -> Pair:
    """What the activations leave of -128..127."""
    low, high = -128, 127
    for pair in operation.bounds:
        limits = _quantise(np.array(pair, np.float32), quant_of(operation)).tolist()
        low, high = (int(np.clip(each, *limits)) for each in (low, high))
    return low, high


def _output(model: Model, operation: Operation) -> Output:
    quant = quant_of(operation)
    if any(view.op == "Transpose" for view in operation.views):
        raise Unfit("a Transpose comes before its result is quantised")
    return Output(
        operation.output, model.shape(operation.output), LAYOUT, quant.scale, quant.zero_point, quant.dtype,
        *bounds(operation), tuple(each.label for each in operation.nodes),
    )  # fmt: skip


def _shifted(operation: Operation, axis: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Weights less their zero points, and a scale for each output, which are along ``axis``."""
    weights = operation.weights
    assert weights is not None
    values = weights.values.astype(np.int32)
    outputs = values.shape[axis] if values.ndim > axis else 0
    if {weights.scales.size, weights.zero_points.size} - {1, outputs}:
        raise Unfit(f"its weights have {weights.scales.size} scales for {outputs} outputs")
    if max(weights.scales.size, weights.zero_points.size) > 1:
        _check_axis(weights, axis)
    shape = [1] * values.ndim
    shape[axis] = -1
    zeros = weights.zero_points.astype(np.int32).reshape(shape)
    return values - zeros, np.broadcast_to(weights.scales, (outputs,))


def _check_axis(weights: Constant, axis: int) -> None:
    if weights.axis % weights.values.ndim != axis:
        raise Unfit("its weights have a scale for each input, not for each output")


def _numbers(operation: Operation, values: NDArray[np.int32], scales: NDArray[np.float32]) -> Weights:
    """With the bias in integer steps, as ONNX Runtime takes or makes them."""
    outputs = len(values)
    bias = operation.bias
    if bias is None:
        return Weights(values, scales, np.zeros(outputs, np.int64))
    if bias.size not in (1, outputs):
        raise Unfit(f"its bias has {bias.size} elements for {outputs} outputs")
    if bias.dtype == np.float32:
        steps = np.rint(bias.reshape(-1) / (quant_of(operation.operands[0]).scale * scales))
        bias = np.clip(steps.astype(np.float64), -(2.0**31), 2.0**31 - 1)
    return Weights(values, scales, np.broadcast_to(bias.astype(np.int64).reshape(-1), (outputs,)))
