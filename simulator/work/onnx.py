"""ONNX files as graphs of ``simulator.work.graph``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import ModelLoadError
from simulator.work.graph import ACTIVATION, DEQUANTIZE, QUANTIZE, STEP, VIEW, Graph, Node, Tensor
from simulator.work.rules import Rule, per_input, per_output, product, transposed_product

ROLES = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), VIEW),
    **dict.fromkeys(("Relu", "Clip"), ACTIVATION),
    "QuantizeLinear": QUANTIZE,
    "DequantizeLinear": DEQUANTIZE,
}
# Operator → the inputs that are data and weights, and the rule.
MACS: dict[str, tuple[int, int, Rule]] = {
    "Conv": (0, 1, per_output),
    "ConvInteger": (0, 1, per_output),
    "QLinearConv": (0, 3, per_output),
    "ConvTranspose": (0, 1, per_input),
    "Gemm": (0, 1, product),
    "MatMul": (0, 1, product),
    "MatMulInteger": (0, 1, product),
    "QLinearMatMul": (0, 3, product),
}
# onnxruntime's own operators (com.microsoft) have no shape inference in onnx; each is read as the standard one, which
# has its shapes. Values: that operator and which inputs are tensors rather than scales and zero points.
CONTRIB = {
    "QGemm": ("Gemm", slice(0, 6, 3)),
    "QLinearAdd": ("Add", slice(0, 6, 3)),
    "QLinearMul": ("Mul", slice(0, 6, 3)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearAveragePool": ("AveragePool", slice(0, 1)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", slice(0, 1)),
    "QLinearLeakyRelu": ("LeakyRelu", slice(0, 1)),
    "QLinearSigmoid": ("Sigmoid", slice(0, 1)),
    "QLinearSoftmax": ("Softmax", slice(0, 1)),
}


def read_onnx(path: Path) -> Graph:
    import onnx
    from onnx import inliner, shape_inference

    model = onnx.load(path, load_external_data=False)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _prepare(model.graph)
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    name_of = onnx.TensorProto.DataType.Name
    tensors = {each.name: Tensor(tuple(each.dims), name_of(each.data_type)) for each in graph.initializer} | {
        each.name: Tensor(_shape(each), name_of(each.type.tensor_type.elem_type))
        for each in (*graph.input, *graph.value_info, *graph.output)
    }
    return Graph(
        tuple(_node(node, tensors) for node in graph.node if node.op_type != "Constant"),
        tensors,
        frozenset(each.name for each in graph.input) - {each.name for each in graph.initializer},
        frozenset(each.name for each in graph.output),
    )


def _prepare(graph: Any) -> None:
    """Batch 1, no stale shapes, standard operators."""
    constants = {each.name for each in graph.initializer}
    for each in graph.input:
        size = each.type.tensor_type.shape.dim
        if each.name not in constants and len(size) and not size[0].HasField("dim_value"):
            size[0].dim_value = 1
    del graph.value_info[:]
    for each in graph.output:
        each.type.tensor_type.ClearField("shape")
    for node in graph.node:
        if any(attribute.HasField("g") or len(attribute.graphs) for attribute in node.attribute):
            raise ModelLoadError(f"operator {node.op_type} holds a graph of its own")
        if node.domain == "com.microsoft" and node.op_type in CONTRIB:
            node.op_type, kept = CONTRIB[node.op_type]
            node.domain = ""
            node.input[:] = list(node.input)[kept]


def _shape(value: Any) -> tuple[int, ...]:
    shape = value.type.tensor_type.shape
    if not value.type.tensor_type.HasField("shape") or not all(d.HasField("dim_value") for d in shape.dim):
        raise ModelLoadError(f"the shape of tensor {value.name!r} is not known before a run")
    return tuple(size.dim_value for size in shape.dim)


def _node(node: Any, tensors: dict[str, Tensor]) -> Node:
    inputs, outputs = tuple(filter(None, node.input)), tuple(filter(None, node.output))
    lost = [name for name in (*inputs, *outputs) if name not in tensors]
    if lost:
        raise ModelLoadError(f"the shape of tensor {lost[0]!r} is not known before a run")
    if node.op_type not in MACS:
        return Node(ROLES.get(node.op_type, STEP), inputs, outputs)
    data, weight, rule = MACS[node.op_type]
    if any(each.name == "transA" and each.i for each in node.attribute):
        rule = transposed_product
    operands = (node.input[data], node.input[weight])
    macs = rule(*(tensors[name].shape for name in (outputs[0], *operands)))
    return Node(STEP, inputs, outputs, macs, operands)
