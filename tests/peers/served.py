"""Small ONNX models for the peers: a pair of sums, and what goes in comes out, for every datatype."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from agent.types import TensorSpec
from tests.peers.servers import Served

DATATYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip
SHAPE = (-1, 4)


def pair(folder: Path) -> Served:
    """``sum`` = a + b and ``difference`` = a - b, FP32 [any, 4]."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    inputs = [TensorSpec(name, "FP32", SHAPE) for name in ("a", "b")]
    outputs = [TensorSpec(name, "FP32", SHAPE) for name in ("sum", "difference")]
    return _save(folder, "pair", nodes, inputs, outputs)


def same(folder: Path, datatype: str) -> Served:
    """``y`` = x, [any, 4]; named after its datatype."""
    node = helper.make_node("Identity", ["x"], ["y"])
    tensors = [TensorSpec(name, datatype, SHAPE) for name in ("x", "y")]
    return _save(folder, datatype.lower(), [node], tensors[:1], tensors[1:])


def _save(
    folder: Path, name: str, nodes: list[onnx.NodeProto], inputs: list[TensorSpec], outputs: list[TensorSpec]
) -> Served:
    values = [
        [
            helper.make_tensor_value_info(each.name, DATATYPES[each.dtype], ["n", *each.shape[1:]])
            for each in side
        ]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, name, *values)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(file))
    return Served(name, file, inputs, outputs)
