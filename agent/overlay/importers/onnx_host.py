"""ONNX operators that numpy runs beside the overlay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agent.overlay.graph import Host
from agent.overlay.importers.onnx_model import DTYPES, Model, Node

Attributes = dict[str, Any]
INTEGERS = ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64")


def host_step(model: Model, node: Node) -> Host | None:
    """The host operator that does what ``node`` does; None when there is none."""
    if node.domain not in ("", "com.microsoft") or node.op not in OPERATORS or any(node.outputs[1:]):
        return None
    if node.domain == "com.microsoft" and "quantize" not in node.op.lower():
        return None
    made = OPERATORS[node.op](model, node)
    if made is None:
        return None
    return Host(made[0], node.inputs[:1], node.outputs[:1], made[1], (node.label,))


def _quantise(model: Model, node: Node) -> tuple[str, Attributes] | None:
    if model.dtype(node.inputs[0]) != "FP32":
        return None
    found = _parameters(model, node, model.dtype(node.outputs[0]))
    return None if found is None else ("quantize", found | {"dtype": model.dtype(node.outputs[0])})


def _dequantise(model: Model, node: Node) -> tuple[str, Attributes] | None:
    if model.dtype(node.outputs[0]) != "FP32":
        return None
    found = _parameters(model, node, model.dtype(node.inputs[0]))
    return None if found is None else ("dequantize", found)


def _parameters(model: Model, node: Node, dtype: str) -> Attributes | None:
    """Scales and zero points as lists; None when they are computed, in blocks, or of bytes no wider than these."""
    scale = model.constant(node.input(1))
    zero_point = (
        model.constant(node.input(2)) if node.input(2) else np.zeros(1 if scale is None else scale.shape)
    )
    if scale is None or zero_point is None or scale.dtype != np.float32 or node.attributes.get("block_size"):
        return None
    if dtype not in ("INT8", "UINT8", "INT16", "UINT16", "INT32") or scale.size != zero_point.size:
        return None
    return {
        "scale": tuple(scale.astype(np.float64).reshape(-1).tolist()),
        "zero_point": tuple(zero_point.astype(np.int64).reshape(-1).tolist()),
        "axis": node.attributes.get("axis", 1),
    }


def _softmax(model: Model, node: Node) -> tuple[str, Attributes] | None:
    rank = len(model.shape(node.inputs[0]))
    axis = node.attributes.get("axis", -1 if model.opset >= 13 else 1) % rank
    if model.dtype(node.inputs[0]) != "FP32" or (model.opset < 13 and axis != rank - 1):
        return None  # older than 13: over all axes from this one on
    return "softmax", {"axis": axis}


def _argmax(model: Model, node: Node) -> tuple[str, Attributes] | None:
    attributes = {
        "axis": node.attributes.get("axis", 0) % len(model.shape(node.inputs[0])),
        "keepdims": bool(node.attributes.get("keepdims", 1)),
        "last": bool(node.attributes.get("select_last_index", 0)),
        "dtype": "INT64",
    }
    return "argmax", attributes


def _reshape(model: Model, node: Node) -> tuple[str, Attributes] | None:
    return "reshape", {"shape": model.shape(node.outputs[0])}


def _transpose(model: Model, node: Node) -> tuple[str, Attributes] | None:
    rank = len(model.shape(node.inputs[0]))
    return "transpose", {"perm": tuple(node.attributes.get("perm") or reversed(range(rank)))}


def _cast(model: Model, node: Node) -> tuple[str, Attributes] | None:
    before, after = model.dtype(node.inputs[0]), DTYPES.get(node.attributes["to"], "")
    # From real numbers to integers the two round and saturate differently outside the integers' range.
    return ("cast", {"dtype": after}) if before in INTEGERS and after in (*INTEGERS, "FP32") else None


OPERATORS: dict[str, Callable[[Model, Node], tuple[str, Attributes] | None]] = {
    "QuantizeLinear": _quantise,
    "DequantizeLinear": _dequantise,
    "Softmax": _softmax,
    "ArgMax": _argmax,
    "Transpose": _transpose,
    "Cast": _cast,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), _reshape),
}
