"""The same weights as another export would store them: other names, another order, other padding; or one layer anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from agent.fleet.boundaries import tensor_boundaries
from agent.package.blocks import file_entry
from agent.package.manifest import File


def entry(data: bytes, file_format: str) -> File:
    """As the packer cuts it."""
    return file_entry(data, tensor_boundaries(data, file_format))[0]


def fetched_bytes(old: bytes, new: bytes, file_format: str) -> int:
    """Bytes of the blocks of ``new`` that a node with ``old`` has not got."""
    known = {block.sha256 for block in entry(old, file_format).blocks}
    missing = {block.sha256: block.size for block in entry(new, file_format).blocks}
    return sum(size for sha, size in missing.items() if sha not in known)


def manifest_bytes(data: bytes, file_format: str) -> int:
    """What the file takes of a signed manifest, in base64."""
    return len(entry(data, file_format).model_dump_json()) * 4 // 3


# -- ONNX --------------------------------------------------------------------------------------------------------------


def renamed_onnx(data: bytes) -> bytes:
    """Initialisers, values and nodes with new names, longer ones; inputs and outputs keep theirs."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    kept = {"", *(value.name for value in (*graph.input, *graph.output))}
    made: dict[str, str] = {}

    def new(name: str) -> str:
        return name if name in kept else made.setdefault(name, f"module.{len(made)}.{name}_1")

    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for value in graph.value_info:
        value.name = new(value.name)
    for node in graph.node:
        node.name += "_renamed"
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    return bytes(model.SerializeToString())


def reordered_onnx(data: bytes, seed: int = 1) -> bytes:
    """Initialisers in another order."""
    model = onnx.ModelProto.FromString(data)
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in model.graph.initializer]
    random.Random(seed).shuffle(tensors)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return bytes(model.SerializeToString())


def typed_onnx(data: bytes) -> bytes:
    """Floats in float_data instead of raw_data."""
    model = onnx.ModelProto.FromString(data)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.HasField("raw_data"):
            values = numpy_helper.to_array(tensor).ravel()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values.tolist())
    return bytes(model.SerializeToString())


def retrained_onnx(data: bytes) -> tuple[bytes, int]:
    """(The model with other values in the last layer that has weights, the bytes of these.)"""
    model = onnx.ModelProto.FromString(data)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    sources = {output: node for node in model.graph.node for output in node.output}
    for node in reversed(model.graph.node):
        if node.op_type in ("Gemm", "MatMul", "Conv", "QLinearConv", "QLinearMatMul"):
            changed = [tensor for name in node.input for tensor in _stored(name, tensors, sources)]
            large = [tensor for tensor in changed if len(tensor.raw_data) > 8]
            if large:
                for tensor in large:
                    tensor.raw_data = _other(tensor.raw_data)
                return bytes(model.SerializeToString()), sum(len(tensor.raw_data) for tensor in large)
    raise ValueError("no layer with weights")


def _stored(name: str, tensors: dict[str, Any], sources: dict[str, Any]) -> list[Any]:
    """The initialiser behind a name, or behind its DequantizeLinear."""
    if name in tensors:
        return [tensors[name]]
    source = sources.get(name)
    if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in tensors:
        return [tensors[source.input[0]]]
    return []


def _other(values: bytes) -> bytes:
    return random.Random(len(values)).randbytes(len(values))


# -- TFLite ------------------------------------------------------------------------------------------------------------


def _tflite(data: bytes, change: Callable[[Any], None]) -> bytes:
    import flatbuffers  # type: ignore[import-untyped, unused-ignore]
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def packed_tflite(data: bytes) -> bytes:
    """The same model from another writer: buffers aligned by 4, not 16, and in another order of tables."""
    return _tflite(data, lambda model: None)


def renamed_tflite(data: bytes) -> bytes:
    """Tensors with new names, longer ones."""

    def change(model: Any) -> None:
        for subgraph in model.subgraphs:
            for number, tensor in enumerate(subgraph.tensors):
                tensor.name = b"module/%d/" % number + (tensor.name or b"")

    return _tflite(data, change)


def reordered_tflite(data: bytes, seed: int = 1) -> bytes:
    """Buffers in another order; the first, which is empty, stays."""

    def change(model: Any) -> None:
        order = list(range(1, len(model.buffers)))
        random.Random(seed).shuffle(order)
        order.insert(0, 0)
        place = {old: new for new, old in enumerate(order)}
        model.buffers = [model.buffers[old] for old in order]
        for subgraph in model.subgraphs:
            for tensor in subgraph.tensors:
                tensor.buffer = place[tensor.buffer]
        for item in model.metadata or ():
            item.buffer = place[item.buffer]

    return _tflite(data, change)


def retrained_tflite(data: bytes) -> tuple[bytes, int]:
    """(The model with other values in the last operator that has weights, the bytes of these.)"""
    nbytes = 0

    def change(model: Any) -> None:
        nonlocal nbytes
        graph = model.subgraphs[0]
        for operator in reversed(graph.operators):
            buffers = [model.buffers[graph.tensors[index].buffer] for index in operator.inputs if index >= 0]
            large = [buffer for buffer in buffers if buffer.data is not None and len(buffer.data) > 32]
            if large:
                for buffer in large:
                    nbytes += len(buffer.data)
                    buffer.data = np.frombuffer(_other(bytes(buffer.data)), np.uint8)
                return

    return _tflite(data, change), nbytes
