"""Quantised operators of an ONNX model in one form, written as QLinear operators or between Q and DQ nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.importers.building import Unfit
from agent.overlay.importers.onnx_model import MICROSOFT, Model, Node

BYTES = ("INT8", "UINT8")
WEIGHTED = ("Conv", "Gemm", "MatMul")
# QLinear operators: the standard one, and at which inputs (each with a scale and a zero point after it) its operands
# are, its bias is, and the scale of its output is.
QLINEAR: dict[tuple[str, str], tuple[str, tuple[int, ...], int | None, int]] = {
    ("", "QLinearConv"): ("Conv", (0, 3), 8, 6),
    ("", "QLinearMatMul"): ("MatMul", (0, 3), None, 6),
    (MICROSOFT, "QGemm"): ("Gemm", (0, 3), 6, 7),
    (MICROSOFT, "QLinearAdd"): ("Add", (0, 3), None, 6),
    (MICROSOFT, "QLinearGlobalAveragePool"): ("GlobalAveragePool", (0,), None, 3),
    (MICROSOFT, "QLinearSoftmax"): ("Softmax", (0,), None, 3),
}
# Operators that take bytes as they are.
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")
PLAIN = frozenset({"MaxPool", *VIEWS})


@dataclass(frozen=True, slots=True)
class Quant:
    """How bytes stand for numbers; ``zero_point`` is that of the int8 values."""

    scale: np.float32
    zero_point: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Operand:
    """``name``: an INT8 or UINT8 activation; ``quant`` None: as whoever wrote it says. ``views``: nodes that only look
    at it otherwise, after it has been dequantised."""

    name: str
    quant: Quant | None
    views: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """Quantised weights as stored, with scales and zero points: one, or along ``axis``."""

    values: NDArray[Any]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int


@dataclass(frozen=True, slots=True)
class Operation:
    """A quantised operator, of which ``node`` is the core and ``nodes`` are those that it stands for.

    ``quant`` None: as its operand. ``weights`` of an Add: its constant, which comes before the operand when
    ``swapped``. ``bias``: int32 steps, or real numbers (float32) that nobody has quantised. ``bounds``: real numbers
    that activations clamp to, in their order. ``views`` of what the core and these give come before ``output``.
    ``why`` it is none for the overlay, when it is known already; then the rest means nothing.
    """

    kind: str
    node: Node
    output: str
    nodes: tuple[Node, ...]
    operands: tuple[Operand, ...] = ()
    quant: Quant | None = None
    weights: Constant | None = None
    bias: NDArray[Any] | None = None
    bounds: tuple[tuple[float, float], ...] = ()
    swapped: bool = False
    views: tuple[Node, ...] = ()
    why: str = ""


def qlinear(model: Model, node: Node) -> Operation | None:
    """The operation that a QLinear operator, or a plain one on bytes, is; None when it is none of them."""
    output = node.outputs[0]
    if (node.domain, node.op) in QLINEAR:
        try:
            return _qlinear(model, node)
        except Unfit as why:
            return Operation(node.op, node, output, (node,), why=str(why))
    if node.domain == "" and node.op in PLAIN and model.dtype(node.inputs[0]) in BYTES:
        operands = (Operand(node.inputs[0], None),)
        if node.op in VIEWS:
            return Operation("Identity", node, output, (node,), operands, views=(node,))
        return Operation(node.op, node, output, (node,), operands)
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
        weights = quantised_weights(
            model, node.input(index), node.input(index + 1), node.input(index + 2), axis
        )
        read = operands[:1]
    swapped = False
    if kind == "Add":
        fixed = [at for at in operands if model.constant(node.inputs[at]) is not None]
        for at in fixed[:1]:
            weights = quantised_weights(model, node.input(at), node.input(at + 1), node.input(at + 2), 0)
            read, swapped = tuple(each for each in operands if each != at), at == operands[0]
    return Operation(
        kind,
        node,
        node.outputs[0],
        (node,),
        tuple(
            Operand(node.inputs[at], parameters(model, node.input(at + 1), node.input(at + 2))) for at in read
        ),
        parameters(model, node.input(output), node.input(output + 1)),
        weights,
        constant(model, node.input(bias)) if bias is not None and node.input(bias) else None,
        swapped=swapped,
    )


def parameters(model: Model, scale: str, zero_point: str, dtype: str = "UINT8") -> Quant:
    """Scale and zero point of an activation; ``dtype`` is its type when it has no zero point.

    Raises Unfit unless they are constants, one each, of bytes.
    """
    scales = constant(model, scale)
    zeros = constant(model, zero_point) if zero_point else np.zeros((), np.uint8)
    dtype = model.dtype(zero_point) if zero_point else dtype
    if dtype not in BYTES:
        raise Unfit(f"it is quantised to {dtype or 'an unknown type'}, not INT8 or UINT8")
    if scales.size != 1 or zeros.size != 1 or scales.dtype != np.float32:
        raise Unfit("its input or output has several scales, or none in float32")
    return Quant(
        np.float32(scales.reshape(())), int(zeros.reshape(())) - (128 if dtype == "UINT8" else 0), dtype
    )


def constant(model: Model, name: str) -> NDArray[Any]:
    """Raises Unfit when it is computed."""
    found = model.constant(name)
    if found is None:
        raise Unfit(f"its parameter {name!r} is computed, not a constant")
    return found


def quantised_weights(model: Model, values: str, scale: str, zero_point: str, axis: int) -> Constant:
    """Raises Unfit when they are computed, or no bytes."""
    array, scales = constant(model, values), constant(model, scale).reshape(-1)
    zeros = constant(model, zero_point).reshape(-1) if zero_point else np.zeros(scales.size, np.int64)
    if array.dtype not in (np.int8, np.uint8) or scales.dtype != np.float32:
        raise Unfit(f"its weights are {array.dtype.name} with scales in {scales.dtype.name}")
    return Constant(array, scales, zeros.astype(np.int64), axis)
