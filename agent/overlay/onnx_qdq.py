"""Groups of ONNX nodes between DequantizeLinear and QuantizeLinear as one quantised operation each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.building import Unfit
from agent.overlay.onnx_match import (
    BYTES,
    WEIGHTED,
    Constant,
    Operand,
    Operation,
    constant,
    parameters,
    quantised_weights,
)
from agent.overlay.onnx_model import Model, Node

ACTIVATIONS = ("Relu", "Clip")
CORES = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Relu", "Clip", "Softmax",
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "DequantizeLinear",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Group:
    """``core``, the name of a bias that an Add after it brings, activations, and a QuantizeLinear at last.

    ``nodes`` do not hold the DequantizeLinear nodes before ``core``, which others may read as well.
    """

    core: Node
    bias: str
    activations: tuple[Node, ...]
    nodes: tuple[Node, ...]


def between(model: Model, last: Node) -> Operation | None:
    """The operation that ends with ``last``, a QuantizeLinear; None when there is more to it than a layer holds.

    What ONNX Runtime may run as one quantised operator, but the overlay does not, has a ``why``.
    """
    group = _group(model, last)
    if group is None:
        return None
    try:
        return _operation(model, group)
    except Unfit as why:
        return Operation(group.core.op, group.core, last.outputs[0], group.nodes, why=str(why))


def _group(model: Model, last: Node) -> _Group | None:
    nodes = [last]
    node = model.made.get(last.inputs[0])
    activations: list[Node] = []
    while node is not None and node.op in ACTIVATIONS and _inner(model, node):
        before = model.made.get(node.inputs[0])
        if before is None or before.op == "DequantizeLinear":
            break
        activations.insert(0, node)
        nodes.insert(0, node)
        node = before
    if node is None or node.op == "QuantizeLinear":
        return None
    bias = ""
    if node.op == "Add":
        node, bias = _biased(model, node, nodes)
    if node.op == "DequantizeLinear":
        closed = _dequantised(model, node.outputs[0])
    else:
        nodes.insert(0, node)
        closed = _inner(model, node) and all(_known(model, name) for name in node.inputs)
    return _Group(node, bias, tuple(activations), tuple(nodes)) if closed else None


def _inner(model: Model, node: Node) -> bool:
    """Whether its one result goes to one reader, so that it may vanish into a layer."""
    return model.alone(node.outputs[0]) and not any(node.outputs[1:])


def _known(model: Model, name: str) -> bool:
    """Whether it is a constant, or what DequantizeLinear makes of one or of bytes."""
    node = model.made.get(name)
    return (
        not name or (node is not None and node.op == "DequantizeLinear") or model.constant(name) is not None
    )


def _dequantised(model: Model, name: str) -> bool:
    """Whether it is what DequantizeLinear makes of bytes that are computed."""
    node = model.made.get(name)
    return node is not None and node.op == "DequantizeLinear" and model.constant(node.inputs[0]) is None


def _biased(model: Model, add: Node, nodes: list[Node]) -> tuple[Node, str]:
    """MatMul and bias when ``add`` adds a constant to one; else ``add`` itself."""
    for data, bias in (add.inputs[:2], add.inputs[1::-1]):
        node = model.made.get(data)
        if node is not None and node.op == "MatMul" and _inner(model, add) and _bias(model, bias) is not None:
            nodes.insert(0, add)
            return node, bias
    return add, ""


def _operation(model: Model, group: _Group) -> Operation:
    core, last = group.core, group.nodes[-1]
    if core.domain != "" or core.op not in CORES:
        raise Unfit("the overlay has no such operator")
    data = {"Add": core.inputs[:2], "DequantizeLinear": core.outputs[:1]}.get(core.op, core.inputs[:1])
    bounds = tuple(clamp(model, each) for each in group.activations)
    kind = "Identity" if core.op in ("DequantizeLinear", *ACTIVATIONS) else core.op
    if core.op in ACTIVATIONS:
        bounds = (clamp(model, core), *bounds)
    weights = _weights(model, core.input(1)) if core.op in WEIGHTED else None
    bias = group.bias or (core.input(2) if core.op in ("Conv", "Gemm") else "")
    steps = _bias(model, bias) if bias else None
    if bias and steps is None:
        raise Unfit(f"its bias {bias!r} is no constant in INT32 or FP32")
    dtype = {0: "UINT8", 2: "UINT8", 3: "INT8"}.get(last.attributes.get("output_dtype", 0), "")
    quant = parameters(model, last.input(1), last.input(2), dtype)
    operands = tuple(_operand(model, name) for name in data)
    return Operation(kind, core, last.outputs[0], group.nodes, operands, quant, weights, steps, bounds)


def _operand(model: Model, name: str) -> Operand:
    """The bytes of which ``name`` is the DequantizeLinear. Raises Unfit when they are constants."""
    if not _dequantised(model, name):
        raise Unfit(f"its operand {name!r} is a constant")
    node = model.made[name]
    dtype = model.dtype(node.inputs[0])
    if dtype not in BYTES:
        raise Unfit(f"tensor {node.inputs[0]!r} is {dtype}, not INT8 or UINT8")
    return Operand(node.inputs[0], parameters(model, node.input(1), node.input(2), dtype))


def clamp(model: Model, node: Node) -> tuple[float, float]:
    """The bounds of Relu or Clip. Raises Unfit when they are computed."""
    if node.op == "Relu":
        return 0.0, float("inf")
    low, high = (
        constant(model, node.input(index)).reshape(())
        if node.input(index)
        else node.attributes.get(name, default)
        for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf))
    )
    return float(low), float(high)


def _weights(model: Model, name: str) -> Constant:
    """The weights that a DequantizeLinear, or the transpose of one, makes. Raises Unfit when they are none."""
    node = model.made.get(name)
    if node is not None and node.op == "Transpose":
        inner = _weights(model, node.inputs[0])
        perm = list(node.attributes.get("perm") or reversed(range(inner.values.ndim)))
        axis = perm.index(inner.axis % inner.values.ndim) if inner.scales.size > 1 else 0
        return Constant(inner.values.transpose(perm), inner.scales, inner.zero_points, axis)
    if node is None or node.op != "DequantizeLinear" or model.constant(node.inputs[0]) is None:
        raise Unfit(f"its weights {name!r} are not quantised, or computed")
    if node.attributes.get("block_size"):
        raise Unfit("its weights have a scale for each block")
    return quantised_weights(
        model, node.inputs[0], node.input(1), node.input(2), node.attributes.get("axis", 1)
    )


def _bias(model: Model, name: str) -> NDArray[Any] | None:
    """int32 steps behind a DequantizeLinear, or float32 numbers; None when it is computed."""
    node = model.made.get(name)
    if node is not None and node.op == "DequantizeLinear":
        steps = model.constant(node.inputs[0])
        return steps if steps is not None and steps.dtype == np.int32 else None
    real = model.constant(name)
    return real if real is not None and real.dtype == np.float32 else None
