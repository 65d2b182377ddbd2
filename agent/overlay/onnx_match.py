"""Quantised operators of an ONNX model in one form, written as QLinear operators or between Q and DQ nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.building import Unfit
from agent.overlay.onnx_model import MICROSOFT, Model, Node

BYTES = ("INT8", "UINT8")
# What may stand between DequantizeLinear and QuantizeLinear.
CORES = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Relu", "Clip",
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "DequantizeLinear",
})  # fmt: skip
WEIGHTED = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip")
# QLinear operators: the standard one, and at which inputs (each with a scale and a zero point after it) its operands
# are, its bias is, and the scale of its output is.
QLINEAR: dict[tuple[str, str], tuple[str, tuple[int, ...], int | None, int]] = {
    ("", "QLinearConv"): ("Conv", (0, 3), 8, 6),
    ("", "QLinearMatMul"): ("MatMul", (0, 3), None, 6),
    (MICROSOFT, "QGemm"): ("Gemm", (0, 3), 6, 7),
    (MICROSOFT, "QLinearAdd"): ("Add", (0, 3), None, 6),
    (MICROSOFT, "QLinearGlobalAveragePool"): ("GlobalAveragePool", (0,), None, 3),
}
# Operators that take bytes as they are.
PLAIN = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"})


@dataclass(frozen=True, slots=True)
class Quant:
    """How bytes stand for numbers; ``zero_point`` is that of the int8 values."""

    scale: np.float32
    zero_point: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Operand:
    """``name``: an INT8 or UINT8 activation; ``quant`` None: as whoever wrote it says."""

    name: str
    quant: Quant | None


@dataclass(frozen=True, slots=True)
class Constant:
    """Quantised weights as stored, with scales and zero points: one, or along ``axis``."""

    values: NDArray[Any]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int


@dataclass(frozen=True, slots=True)
class Operation:
    """A quantised operator; ``bounds``: real numbers that activations clamp to, in the order of the nodes.

    ``bias``: int32 steps, or real numbers (float32) that nobody has quantised. ``quant`` None: as its operand.
    """

    kind: str
    node: Node
    operands: tuple[Operand, ...]
    output: str
    quant: Quant | None
    nodes: tuple[Node, ...]
    weights: Constant | None = None
    bias: NDArray[Any] | None = None
    bounds: tuple[tuple[float, float], ...] = field(default=())


def quantised(model: Model, node: Node) -> Operation | None:
    """The operation that a QLinear operator, a plain one on bytes, or the end of a QDQ group is.

    None when it is none of them. Raises Unfit when it looks like one but its parameters are not constants.
    """
    if (node.domain, node.op) in QLINEAR:
        return _qlinear(model, node)
    if node.domain == "" and node.op in PLAIN and model.dtype(node.inputs[0]) in BYTES:
        return Operation(node.op, node, (Operand(node.inputs[0], None),), node.outputs[0], None, (node,))
    if node.op == "QuantizeLinear":
        return _between(model, node)
    return None


def _qlinear(model: Model, node: Node) -> Operation:
    kind, operands, bias, output = QLINEAR[node.domain, node.op]
    if node.attributes.get("channels_last"):
        raise Unfit("its channels come last")
    weights = None
    read = operands
    if kind in WEIGHTED:
        index = operands[1]
        axis = {"Conv": 0, "MatMul": -1, "Gemm": 0 if node.attributes.get("transB") else 1}[kind]
        weights = _weights(model, node.input(index), node.input(index + 1), node.input(index + 2), axis)
        read = operands[:1]
    steps = None
    if bias is not None and node.input(bias):
        steps = _constant(model, node.input(bias))
    quant = parameters(model, node.input(output), node.input(output + 1))
    return Operation(
        kind, node,
        tuple(Operand(node.inputs[at], parameters(model, node.input(at + 1), node.input(at + 2))) for at in read),
        node.outputs[0], quant, (node,), weights, steps,
    )  # fmt: skip


def _between(model: Model, last: Node) -> Operation | None:
    """The operation between DequantizeLinear nodes and ``last``, a QuantizeLinear."""
    nodes = [last]
    node = model.made.get(last.inputs[0])
    bounds: list[tuple[float, float]] = []
    while node is not None and node.op in ACTIVATIONS and _inner(model, node):
        before = model.made.get(node.inputs[0])
        if before is None or before.op == "DequantizeLinear":
            break
        bounds.insert(0, clamp(model, node))
        nodes.insert(0, node)
        node = before
    bias = ""
    if node is not None and node.op == "Add":
        node, bias = _biased(model, node, nodes)
    if node is None or node.domain != "" or node.op not in CORES:
        return None
    if node.op != "DequantizeLinear":
        if not _inner(model, node):
            return None
        nodes.insert(0, node)
    quant = parameters(model, last.input(1), last.input(2), last.attributes)
    return _core(model, node, bias, tuple(nodes), quant, tuple(bounds))


def _core(
    model: Model, node: Node, bias: str, nodes: tuple[Node, ...], quant: Quant,
    bounds: tuple[tuple[float, float], ...],
) -> Operation | None:  # fmt: skip
    data = {"Add": node.inputs[:2], "DequantizeLinear": node.outputs[:1]}.get(node.op, node.inputs[:1])
    found = [_dequantised(model, name) for name in data]
    operands = tuple(operand for operand in found if operand is not None)
    if len(operands) < len(found):
        return None
    weights = None
    if node.op in WEIGHTED:
        weights = _quantised_constant(model, node.input(1))
        if weights is None:
            return None
    name = bias or (node.input(2) if node.op in ("Conv", "Gemm") else "")
    steps = _bias(model, name) if name else None
    if name and steps is None:
        return None
    kind = "Identity" if node.op == "DequantizeLinear" else node.op
    if kind in ACTIVATIONS:
        kind, bounds = "Identity", (clamp(model, node), *bounds)
    return Operation(kind, node, operands, nodes[-1].outputs[0], quant, nodes, weights, steps, bounds)


def _inner(model: Model, node: Node) -> bool:
    """Whether its one result goes to one reader, so that it may vanish into a layer."""
    return all(model.alone(name) for name in node.outputs[:1]) and not any(node.outputs[1:])


def _biased(model: Model, add: Node, nodes: list[Node]) -> tuple[Node, str]:
    """MatMul and bias when ``add`` adds a constant to one; else ``add`` itself."""
    for data, bias in (add.inputs[:2], add.inputs[1::-1]):
        node = model.made.get(data)
        if node is not None and node.op == "MatMul" and _inner(model, add) and _bias(model, bias) is not None:
            nodes.insert(0, add)
            return node, bias
    return add, ""


def _dequantised(model: Model, name: str) -> Operand | None:
    """The bytes of which ``name`` is the DequantizeLinear; None when it is not (of bytes that are computed)."""
    node = model.made.get(name)
    if node is None or node.op != "DequantizeLinear" or node.inputs[0] in model.constants:
        return None
    if model.dtype(node.inputs[0]) not in BYTES:
        raise Unfit(f"tensor {node.inputs[0]!r} is {model.dtype(node.inputs[0])}, not INT8 or UINT8")
    return Operand(
        node.inputs[0], parameters(model, node.input(1), node.input(2), {}, model.dtype(node.inputs[0]))
    )


def parameters(
    model: Model, scale: str, zero_point: str, attributes: dict[str, Any] | None = None, dtype: str = ""
) -> Quant:
    """Scale and zero point of an activation. Raises Unfit unless they are constants, one each, of bytes."""
    scales = _constant(model, scale)
    zeros = _constant(model, zero_point) if zero_point else np.zeros((), np.uint8)
    dtype = model.dtype(zero_point) if zero_point else dtype or _dtype_of(attributes or {})
    if dtype not in BYTES:
        raise Unfit(f"it is quantised to {dtype or 'an unknown type'}, not INT8 or UINT8")
    if scales.size != 1 or zeros.size != 1 or scales.dtype != np.float32:
        raise Unfit("its input or output has several scales, or none in float32")
    return Quant(
        np.float32(scales.reshape(())), int(zeros.reshape(())) - (128 if dtype == "UINT8" else 0), dtype
    )


def _dtype_of(attributes: dict[str, Any]) -> str:
    """What QuantizeLinear writes when it has no zero point."""
    return {0: "UINT8", 2: "UINT8", 3: "INT8"}.get(attributes.get("output_dtype", 0), "")


def clamp(model: Model, node: Node) -> tuple[float, float]:
    """The bounds of Relu or Clip. Raises Unfit when they are computed."""
    if node.op == "Relu":
        return 0.0, float("inf")
    low, high = (
        float(_constant(model, node.input(index)).reshape(()))
        if node.input(index)
        else node.attributes.get(name)
        for index, name in ((1, "min"), (2, "max"))
    )
    return -float("inf") if low is None else float(low), float("inf") if high is None else float(high)


def _constant(model: Model, name: str) -> NDArray[Any]:
    found = model.constant(name)
    if found is None:
        raise Unfit(f"its parameter {name!r} is computed, not a constant")
    return found


def _weights(model: Model, values: str, scale: str, zero_point: str, axis: int) -> Constant:
    """Raises Unfit when they are computed, or quantised otherwise than as a whole or along ``axis``."""
    array, scales = _constant(model, values), _constant(model, scale).reshape(-1)
    zeros = _constant(model, zero_point).reshape(-1) if zero_point else np.zeros(scales.size, np.int64)
    if array.dtype not in (np.int8, np.uint8) or scales.dtype != np.float32:
        raise Unfit(f"its weights are {array.dtype.name} with scales in {scales.dtype.name}")
    return Constant(array, scales, zeros.astype(np.int64), axis)


def _quantised_constant(model: Model, name: str) -> Constant | None:
    """The weights that a DequantizeLinear (or the transpose of one) makes; None when they are none."""
    node = model.made.get(name)
    if node is not None and node.op == "Transpose":
        inner = _quantised_constant(model, node.inputs[0])
        perm = node.attributes.get("perm") or list(reversed(range(inner.values.ndim if inner else 0)))
        if inner is None:
            return None
        axis = inner.axis if inner.scales.size == 1 else list(perm).index(inner.axis % inner.values.ndim)
        return Constant(inner.values.transpose(perm), inner.scales, inner.zero_points, axis)
    if node is None or node.op != "DequantizeLinear" or model.constant(node.inputs[0]) is None:
        return None
    if node.attributes.get("block_size"):
        raise Unfit("its weights have a scale for each block")
    return _weights(model, node.inputs[0], node.input(1), node.input(2), node.attributes.get("axis", 1))


def _bias(model: Model, name: str) -> NDArray[Any] | None:
    """int32 steps behind a DequantizeLinear, or float32 numbers; None when it is computed."""
    node = model.made.get(name)
    if node is not None and node.op == "DequantizeLinear":
        steps = model.constant(node.inputs[0])
        return steps if steps is not None and steps.dtype == np.int32 else None
    real = model.constant(name)
    return real if real is not None and real.dtype == np.float32 else None
