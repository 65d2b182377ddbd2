"""May an ONNX model be deployed? Each check raises a named error that says which nodes, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import (
    CustomDomain,
    DynamicShape,
    ModelLoadError,
    ModelTooLarge,
    UnsupportedOperator,
    UnsupportedOpset,
    WeightsNotFinite,
)
from agent.overlay.importers.onnx_model import MAX_BYTES, MICROSOFT

STANDARD = ("", "ai.onnx")
KNOWN = (*STANDARD, "ai.onnx.ml", MICROSOFT)
OLDEST = 7  # what ONNX Runtime still runs
LISTED = 5  # names in a text


def check_size(proto: Any, path: Path, file_bytes: int) -> None:
    """ModelTooLarge, by what the file says of its external data: nothing of that is read."""
    outside = sum(_outside_bytes(each) for each in _external(proto))
    if file_bytes + outside > MAX_BYTES:
        raise ModelTooLarge(
            f"{path.name} has {file_bytes + outside} bytes with its external data, more than {MAX_BYTES}; store the "
            "weights as FP16 or INT8, or deploy a smaller model"
        )


def _external(proto: Any) -> Iterator[Any]:
    for graph in _graphs(proto.graph):
        for each in graph.initializer:
            if each.data_location == each.EXTERNAL:
                yield each


def _outside_bytes(tensor: Any) -> int:
    """What the entry says, or the size by shape where it says nothing."""
    import onnx

    entries = {each.key: each.value for each in tensor.external_data}
    if entries.get("length", "").isdigit():
        return int(entries["length"])
    width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return math.prod(int(size) for size in tensor.dims) * int(width)


def check_operators(proto: Any) -> None:
    """CustomDomain, UnsupportedOpset, UnsupportedOperator: what no runtime here has a definition of."""
    from onnx import defs

    nodes = list(all_nodes(proto.graph))
    custom = [node for node in nodes if node.domain not in KNOWN]
    if custom:
        domains = ", ".join(sorted({node.domain for node in custom}))
        raise CustomDomain(
            f"{listed(custom)}: operators of the domain {domains}, which no runtime here knows; export the model with "
            f"operators of ONNX itself ({', '.join(sorted({node.op_type for node in custom})[:LISTED])} written out)"
        )
    opset = opset_of(proto)
    newest = defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise UnsupportedOpset(
            f"the model is for opset {opset}, this machine's onnx takes {OLDEST} to {newest}; "
            + ("update onnx, or " if opset > newest else "")
            + "export it with opset 17"
        )
    unknown = [node for node in nodes if node.domain in STANDARD and not defs.has(node.op_type, opset, "")]
    if unknown:
        raise UnsupportedOperator(
            f"{listed(unknown)}: ONNX has no such operator in opset {opset}; export the model with another opset, "
            "or with operators of ONNX"
        )


def check_inputs(proto: Any) -> None:
    """DynamicShape for an open size of an input that is not its batch; ModelLoadError for what is no tensor."""
    constants = {each.name for each in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in constants]
    if not inputs:
        raise ModelLoadError("the model has no inputs, so its answers never change; export one that has")
    for each in inputs:
        if not each.type.HasField("tensor_type") or not each.type.tensor_type.HasField("shape"):
            raise ModelLoadError(
                f"input {each.name!r} is no tensor with a shape; export the model with tensors of fixed sizes"
            )
        sizes = each.type.tensor_type.shape.dim
        shown = [size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in sizes]
        if any(not size.HasField("dim_value") or size.dim_value < 1 for size in sizes[1:]):
            raise DynamicShape(
                f"input {each.name!r} has the shape {shown}, only its first size (the batch) may be open; export the "
                "model with fixed sizes"
            )


def check_outputs(proto: Any) -> None:
    """ModelLoadError for an output that is an input, or that no input changes."""
    inputs = {each.name for each in proto.graph.input}
    told = {name for node in proto.graph.node if node.op_type != "Constant" for name in node.output}
    for each in proto.graph.output:
        if each.name not in told:
            what = "is an input" if each.name in inputs else "is a constant"
            raise ModelLoadError(f"output {each.name!r} {what}; export the model without it")


def check_shapes(proto: Any, shapes: Any) -> None:
    """DynamicShape when only a run tells how large a tensor is. ``shapes(name)``: None where that is so."""
    open_nodes = [
        node for node in proto.graph.node if any(name and shapes(name) is None for name in node.output)
    ]
    if open_nodes:
        raise DynamicShape(
            f"{listed(open_nodes)}: the size of the result depends on the data; export the model with fixed sizes, "
            "without operators such as NonZero, and with constant shapes for Reshape"
        )


def check_weights(proto: Any) -> None:
    """WeightsNotFinite, with the tensors and the nodes that read them."""
    from onnx import numpy_helper

    bad: dict[str, None] = {}
    for graph in _graphs(proto.graph):
        for each in graph.initializer:
            if not _finite(numpy_helper.to_array(each)):
                bad[each.name] = None
        for node in graph.node:
            for attribute in node.attribute:
                held = attribute.name == "value" and attribute.HasField("t")
                if held and not _finite(numpy_helper.to_array(attribute.t)):
                    bad[node.output[0]] = None
    if bad:
        readers = [node for node in all_nodes(proto.graph) if set(node.input) & set(bad)]
        names = ", ".join(repr(name) for name in list(bad)[:LISTED])
        raise WeightsNotFinite(
            f"weights {names}, which {listed(readers)} read, hold NaN or infinity; take a checkpoint from before the "
            "training diverged, and export it again"
        )


def _finite(array: Any) -> bool:
    """A single infinity is a bound, as Clip and masks have them."""
    return array.dtype.kind != "f" or bool(
        np.isfinite(array).all() if array.size > 1 else not np.isnan(array).any()
    )


def opset_of(proto: Any) -> int:
    """Of the standard operators."""
    return max((each.version for each in proto.opset_import if each.domain in STANDARD), default=1)


def all_nodes(graph: Any) -> Iterator[Any]:
    """Nodes, those of inner graphs (If, Loop) among them."""
    for each in _graphs(graph):
        yield from each.node


def inner_nodes(node: Any) -> Iterator[Any]:
    """Nodes of the graphs that a node runs."""
    for graph in _inner_graphs(node):
        yield from graph.node


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        yield from _inner_graphs(node)


def _inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from _graphs(inner)


def label(node: Any) -> str:
    """A node's name, or its first output's."""
    return str(node.name or (node.output[0] if node.output else "?"))


def listed(nodes: Sequence[Any]) -> str:
    """Nodes as "Conv 'a', Relu 'b' and 3 more"."""
    names = ", ".join(f"{node.op_type} {label(node)!r}" for node in nodes[:LISTED])
    return names + (f" and {len(nodes) - LISTED} more" if len(nodes) > LISTED else "")
