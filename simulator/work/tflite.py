"""TFLite files as graphs of ``simulator.work.graph``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import ModelLoadError
from simulator.work.graph import STEP, VIEW, Graph, Node, Tensor, precision_of
from simulator.work.rules import (
    Rule,
    connected,
    depthwise,
    per_input_last,
    per_output,
    product,
    transposed_product,
)

VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
MACS: dict[str, tuple[int, int, Rule]] = {
    "CONV_2D": (0, 1, per_output),
    "DEPTHWISE_CONV_2D": (0, 1, depthwise),
    "FULLY_CONNECTED": (0, 1, connected),
    "TRANSPOSE_CONV": (2, 1, per_input_last),
    "BATCH_MATMUL": (0, 1, product),
}


def read_tflite(path: Path) -> Graph:
    """A size that is open in the signature is stored as 1, which is the batch wanted here."""
    from ai_edge_litert import schema_py_generated as schema

    data = path.read_bytes()
    if not schema.Model.ModelBufferHasIdentifier(data, 0):
        raise ModelLoadError("not a TFLite file: no TFL3 at byte 4")
    model = schema.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1:
        raise ModelLoadError(f"{model.SubgraphsLength()} graphs instead of one")
    graph = model.Subgraphs(0)
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    tensors, constants = {}, set()
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
        tensors[str(index)] = Tensor(shape, types[tensor.Type()])
        if model.Buffers(tensor.Buffer()).DataLength():
            constants.add(str(index))
    nodes = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = codes[
            max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        ]  # schema.fbs: the larger one holds
        nodes.append(_node(schema, operator, kind, tensors, constants))
    return Graph(
        tuple(nodes),
        tensors,
        frozenset(str(graph.Inputs(index)) for index in range(graph.InputsLength())),
        frozenset(str(graph.Outputs(index)) for index in range(graph.OutputsLength())),
    )


def _node(schema: Any, operator: Any, kind: str, tensors: dict[str, Tensor], constants: set[str]) -> Node:
    read = [str(operator.Inputs(index)) for index in range(operator.InputsLength())]
    inputs = tuple(name for name in read if name != "-1")
    outputs = tuple(str(operator.Outputs(index)) for index in range(operator.OutputsLength()))
    if kind in VIEWS or (kind == "DEQUANTIZE" and inputs[0] in constants):  # FP16 weights
        return Node(VIEW, inputs, outputs)
    if kind not in MACS:
        return Node(STEP, inputs, outputs)
    data, weight, rule = MACS[kind]
    if kind == "BATCH_MATMUL" and _adjoint(schema, operator):
        rule = transposed_product
    operands = (read[data], read[weight])
    macs = rule(*(tensors[name].shape for name in (outputs[0], *operands)))
    # FP32 data with INT8 weights is computed in INT8: the operator quantises the data on the fly.
    quantised = precision_of([tensors[read[weight]].dtype]) == "int8"
    return Node(STEP, inputs, outputs, macs, operands[1:] if quantised else operands)


def _adjoint(schema: Any, operator: Any) -> bool:
    """Whether BATCH_MATMUL transposes its left side."""
    table = operator.BuiltinOptions()
    if table is None:
        return False
    options = schema.BatchMatMulOptions()
    options.Init(table.Bytes, table.Pos)
    return bool(options.AdjX())
