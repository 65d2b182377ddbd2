"""Tiny models in every format: ``y = x + x`` over FP32 [n, 4], with the shape and datatype to choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def onnx_double(shape: Sequence[int | str] = ("n", 4), dtype: str = "FLOAT") -> bytes:
    """An ONNX file with one Add."""
    from onnx import TensorProto, helper

    kind = getattr(TensorProto, dtype)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", kind, list(shape))],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name=""
    )
    return bytes(model.SerializeToString())


def tflite_double(shape: Sequence[int | str] = ("n", 4), dtype: str = "FLOAT32") -> bytes:
    """A TFLite file with one ADD; an open size is stored as 1 with -1 in the signature."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: bytes) -> Any:
        made = schema.TensorT()
        made.name, made.type, made.buffer = name, getattr(schema.TensorType, dtype), 0
        made.shape = [1 if isinstance(size, str) else size for size in shape]
        made.shapeSignature = [-1 if isinstance(size, str) else size for size in shape]
        return made

    add = schema.OperatorT()
    add.opcodeIndex, add.inputs, add.outputs = 0, [0, 0], [1]
    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = (
        [tensor(b"x"), tensor(b"y")],
        [add],
        [0],
        [1],
    )
    model = schema.ModelT()
    model.version, model.description, model.buffers = 3, b"", [schema.BufferT()]
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def npu_double(shape: Sequence[int | str] = ("n", 4), dtype: str = "FLOAT") -> bytes:
    """An overlay program: the sum in a CPU segment, and beside it a copy on the overlay that nobody reads."""
    from dataclasses import replace

    from agent.overlay.graph import Foreign, Host, Pool
    from agent.overlay.program import Part
    from agent.overlay.programfile import write_program
    from agent.types import TensorSpec
    from tests.unit.overlay.handmade import NPU, pool_segment, program, tensor

    before, after = (tensor(name, 4, 1, 1, shape=(1, 4)) for name in ("before", "after"))
    copy = Pool(
        "copy", "before", "after", True, (1, 1), (1, 1), (0, 0, 0, 0), -128, 0, 1.0, 0, -128, 127, ("c",)
    )
    segment = pool_segment(NPU, copy, before, after)
    scale = {"scale": (1.0,), "zero_point": (0,), "dtype": "INT8"}
    quantise = Host("quantize", ("x",), ("before",), scale, ("q",))
    part = Part(Foreign(("x",), ("y",), ("double",), "not quantised"), "onnx", onnx_double((1, 4), dtype))
    kind = {"FLOAT": "FP32"}.get(dtype, dtype)
    sizes = tuple(-1 if isinstance(size, str) else size for size in shape)
    return write_program(
        replace(
            program(NPU, segment),
            steps=(quantise, segment, part),
            inputs=(TensorSpec("x", kind, sizes),),
            outputs=(TensorSpec("y", kind, sizes),),
        )
    )
