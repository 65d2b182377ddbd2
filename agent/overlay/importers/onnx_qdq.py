"""Groups of ONNX nodes between DequantizeLinear and QuantizeLinear as one quantised operation each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.importers.building import Unfit
from agent.overlay.importers.onnx_match import (
    BYTES,
    VIEWS,
    WEIGHTED,
    Constant,
    Operand,
    Operation,
    constant,
    parameters,
    quantised_weights,
)
from agent.overlay.importers.onnx_model import Model, Node

ACTIVATIONS = ("Relu", "Clip")
CORES = frozenset({"Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Softmax"})


@dataclass(frozen=True, slots=True)
class _Group:
    """``core`` (None: nothing but bytes under ``name``), what comes after it, and a QuantizeLinear at last.

    ``nodes`` are all of these; DequantizeLinear nodes, and views of theirs, are not among them: others may read them
    as well. ``bias`` is the name of one that an Add after a MatMul brings.
    """

    name: str
    core: Node | None
    bias: str
    after: tuple[Node, ...]
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
        core = group.core or group.nodes[0]
        return Operation(core.op, core, last.outputs[0], group.nodes, why=str(why))


def _group(model: Model, last: Node) -> _Group | None:
    name, nodes = last.inputs[0], [last]
    after: list[Node] = []
    while not _dequantised(model, name):
        node = model.made.get(name)
        if node is None or not _inner(model, node):
            return None
        if node.op not in (*ACTIVATIONS, *VIEWS):
            bias = ""
            if node.op == "Add":
                node, bias = _biased(model, node, nodes)
            if not all(_known(model, each) for each in node.inputs):
                return None
            return _Group(name, node, bias, tuple(after), (node, *nodes))
        after.insert(0, node)
        nodes.insert(0, node)
        name = node.inputs[0]
    return _Group(name, None, "", tuple(after), tuple(nodes))


def _inner(model: Model, node: Node) -> bool:
    """Whether its one result goes to one reader, so that it may vanish into a layer."""
    return model.alone(node.outputs[0]) and not any(node.outputs[1:])


def _known(model: Model, name: str) -> bool:
    """Whether it is a constant, or what DequantizeLinear makes of one or of bytes."""
    node = model.made.get(name)
    if not name or model.constant(name) is not None or _dequantised(model, name):
        return True
    if node is not None and node.op == "Transpose":
        node = model.made.get(node.inputs[0])
    return node is not None and node.op == "DequantizeLinear"


def _dequantised(model: Model, name: str) -> bool:
    """Whether it is what DequantizeLinear makes of bytes that are computed, or a view of that."""
    node = model.made.get(name)
    while node is not None and node.op in VIEWS:
        node = model.made.get(node.inputs[0])
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
    if core is not None and (core.domain != "" or core.op not in CORES):
        raise Unfit("the overlay has no such operator")
    bounds = tuple(clamp(model, each) for each in group.after if each.op in ACTIVATIONS)
    views = tuple(each for each in group.after if each.op in VIEWS)
    dtype = {0: "UINT8", 2: "UINT8", 3: "INT8"}.get(last.attributes.get("output_dtype", 0), "")
    quant = parameters(model, last.input(1), last.input(2), dtype)
    if core is None:
        return Operation(
            "Identity", group.nodes[0], last.outputs[0], group.nodes, (_operand(model, group.name),), quant,
            bounds=bounds, views=views,
        )  # fmt: skip
    data, swapped = core.inputs[:1], False
    weights = _weights(model, core.input(1)) if core.op in WEIGHTED else None
    if core.op == "Add":
        data = tuple(name for name in core.inputs if _dequantised(model, name))
        swapped = data[:1] != core.inputs[:1]
        weights = _weights(model, core.inputs[0 if swapped else 1]) if len(data) == 1 else None
    bias = group.bias or (core.input(2) if core.op in ("Conv", "Gemm") else "")
    steps = _bias(model, bias) if bias else None
    if bias and steps is None:
        raise Unfit(f"its bias {bias!r} is no constant in INT32 or FP32")
    operands = tuple(_operand(model, name) for name in data)
    return Operation(
        core.op, core, last.outputs[0], group.nodes, operands, quant, weights, steps, bounds, swapped, views
    )


def _operand(model: Model, name: str) -> Operand:
    """The bytes of which ``name`` is the DequantizeLinear, or a view of it. Raises Unfit when they are constants."""
    if not _dequantised(model, name):
        raise Unfit(f"its operand {name!r} is a constant")
    views: list[Node] = []
    node = model.made[name]
    while node.op in VIEWS:
        views.insert(0, node)
        node = model.made[node.inputs[0]]
    dtype = model.dtype(node.inputs[0])
    if dtype not in BYTES:
        raise Unfit(f"tensor {node.inputs[0]!r} is {dtype}, not INT8 or UINT8")
    return Operand(node.inputs[0], parameters(model, node.input(1), node.input(2), dtype), tuple(views))


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
