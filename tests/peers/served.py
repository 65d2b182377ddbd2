"""Small ONNX models for the peers: sums of a pair, and what goes in comes out, for the datatypes."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from agent.types import TensorSpec
from tests.peers.servers import Served

DATATYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip
SHAPE = (-1, 4)


def everything(folder: Path) -> list[Served]:
    """``pair``, and a model named after each datatype."""
    folder.mkdir()
    return [pair(folder), *(same(folder, datatype) for datatype in DATATYPES)]


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
    """``y`` = x, [any, 4]."""
    x, y = (TensorSpec(name, datatype, SHAPE) for name in ("x", "y"))
    return _save(folder, datatype.lower(), [helper.make_node("Identity", ["x"], ["y"])], [x], [y])


def _save(
    folder: Path, name: str, nodes: list[onnx.NodeProto], inputs: list[TensorSpec], outputs: list[TensorSpec]
) -> Served:
    graph = helper.make_graph(
        nodes, name, [_value(each) for each in inputs], [_value(each) for each in outputs]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    file = folder / f"{name}.onnx"
    onnx.save(model, str(file))
    return Served(name, file, inputs, outputs)


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, DATATYPES[spec.dtype], ["n", *spec.shape[1:]])
