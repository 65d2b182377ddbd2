"""Models of their own out of a model, for the operators that stay on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agent.errors import ModelLoadError
from agent.overlay.graph import Foreign
from agent.overlay.importers.onnx_model import DTYPES, Model, read_onnx
from agent.overlay.importers.tflite_model import tensor_names, unpack

IDENTIFIER = b"TFL3"


def cut(source: bytes, format: str, foreign: Foreign) -> bytes:
    """The part of ``source`` ("onnx", "tflite") that computes a foreign step, a model for batch 1 in the same format.

    Its inputs and outputs are those of ``foreign``. Raises ModelLoadError when the source does not have them.
    """
    cutters = {"onnx": _cut_onnx, "tflite": _cut_tflite}
    if format not in cutters:
        raise ModelLoadError(f"a model of format {format!r} cannot be cut, only {', '.join(cutters)}")
    return cutters[format](source, foreign)


def _needed(operators: Iterable[tuple[Any, Sequence[Any], Sequence[Any]]], foreign: Foreign) -> list[Any]:
    """Operators, given with their inputs and outputs, between the step's inputs and outputs, in their order."""
    wanted, kept = set(foreign.outputs), []
    for operator, inputs, outputs in reversed(list(operators)):
        if wanted.intersection(outputs):
            wanted.difference_update(outputs)
            wanted.update(name for name in inputs if name not in foreign.inputs)
            kept.append(operator)
    if not kept or wanted.intersection(foreign.outputs):
        raise ModelLoadError(f"the model has no operators that write {', '.join(foreign.outputs)}")
    return kept[::-1]


def _cut_onnx(source: bytes, foreign: Foreign) -> bytes:
    import onnx

    model = read_onnx(source)
    proto = model.proto
    nodes = _needed(((node, node.input, node.output) for node in proto.graph.node), foreign)
    read = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        proto.graph.name or "part",
        [_value(model, name) for name in foreign.inputs],
        [_value(model, name) for name in foreign.outputs],
        [each for each in proto.graph.initializer if each.name in read],
    )
    made = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return bytes(made.SerializeToString())


def _value(model: Model, name: str) -> Any:
    import onnx

    codes = {dtype: code for code, dtype in DTYPES.items()}
    dtype = model.dtype(name)
    if dtype not in codes:
        raise ModelLoadError(f"the type of tensor {name!r} is not known before a run")
    return onnx.helper.make_tensor_value_info(name, codes[dtype], model.shape(name))


def _cut_tflite(source: bytes, foreign: Foreign) -> bytes:
    import flatbuffers  # type: ignore[import-untyped, unused-ignore]

    model = unpack(source)
    graph, names = model.subgraphs[0], tensor_names(model)
    lost = [name for name in (*foreign.inputs, *foreign.outputs) if name not in names]
    if lost:
        raise ModelLoadError(f"the model has no tensor {lost[0]!r}")
    named = [
        (each, [names[i] for i in each.inputs if i >= 0], [names[i] for i in each.outputs])
        for each in graph.operators
    ]
    graph.operators = _needed(named, foreign)
    graph.inputs = [names.index(name) for name in foreign.inputs]
    graph.outputs = [names.index(name) for name in foreign.outputs]
    for tensor, name in zip(graph.tensors, names, strict=True):
        tensor.name = name.encode()  # as the step calls it
    _drop_tensors(graph)
    _drop_buffers(model)
    model.signatureDefs = model.metadata = model.metadataBuffer = None
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _drop_tensors(graph: Any) -> None:
    """Keep those that operators read or write."""
    used = {i for each in graph.operators for i in (*each.inputs, *each.outputs) if i >= 0}
    order = sorted(used.union(graph.inputs, graph.outputs))
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in order]
    for each in (*graph.operators, graph):
        each.inputs = [place[int(i)] for i in each.inputs]
        each.outputs = [place[int(i)] for i in each.outputs]


def _drop_buffers(model: Any) -> None:
    """Keep those of the tensors, and the first, which by the format's rule is empty."""
    tensors = model.subgraphs[0].tensors
    order = sorted({0, *(tensor.buffer for tensor in tensors)})
    place = {old: new for new, old in enumerate(order)}
    model.buffers = [model.buffers[old] for old in order]
    for tensor in tensors:
        tensor.buffer = place[tensor.buffer]
