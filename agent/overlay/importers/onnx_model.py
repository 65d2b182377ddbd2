"""ONNX files: nodes, constants, and the type and shape of every tensor at batch 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelLoadError
from agent.overlay import host
from agent.types import TensorSpec

MAX_BYTES = 1 << 30
MICROSOFT = "com.microsoft"
DTYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "FP16",
    11: "FP64", 12: "UINT32", 13: "UINT64",
}  # fmt: skip
# onnxruntime's own operators, for which onnx infers nothing: the standard one with the same shapes, which of the
# inputs are tensors rather than scales and zero points, and where the zero point of the output is.
CONTRIB: dict[str, tuple[str, slice, int]] = {
    "QGemm": ("Gemm", slice(0, 6, 3), 8),
    "QLinearAdd": ("Add", slice(0, 6, 3), 7),
    "QLinearMul": ("Mul", slice(0, 6, 3), 7),
    "QLinearConcat": ("Concat", slice(2, None, 3), 1),
    "QLinearAveragePool": ("AveragePool", slice(0, 1), 4),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", slice(0, 1), 4),
    "QLinearLeakyRelu": ("LeakyRelu", slice(0, 1), 4),
    "QLinearSigmoid": ("Sigmoid", slice(0, 1), 4),
    "QLinearSoftmax": ("Softmax", slice(0, 1), 4),
}


@dataclass(frozen=True, slots=True)
class Node:
    """``domain``: "" is the standard's. Missing optional inputs are ""."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def label(self) -> str:
        return self.name or self.outputs[0]

    def input(self, index: int) -> str:
        return self.inputs[index] if index < len(self.inputs) else ""


class Model:
    """A model that has been read. ``proto`` is the source with batch 1, for cutting."""

    def __init__(self, proto: Any, nodes: Sequence[Node], constants: dict[str, NDArray[Any]]) -> None:
        self.proto, self.nodes, self.constants = proto, tuple(nodes), constants
        self.opset = max(
            (each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), default=1
        )
        self.made = {name: node for node in nodes for name in node.outputs if name}
        self.readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._types: dict[str, tuple[str, tuple[int, ...] | None]] = {}

    def learn(self, types: dict[str, tuple[str, tuple[int, ...] | None]]) -> None:
        self._types = types

    def dtype(self, name: str) -> str:
        """As in TensorSpec; "" when it is not known, or no type of those."""
        return self._types.get(name, ("", None))[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises ModelLoadError when only a run would tell."""
        shape = self._types.get(name, ("", None))[1]
        if shape is None:
            raise ModelLoadError(
                f"the shape of tensor {name!r} is not known before a run; export the model with fixed sizes, but "
                "for the batch"
            )
        return shape

    def alone(self, name: str) -> bool:
        """Whether one node reads the tensor, and nobody else."""
        return len(self.readers.get(name, ())) == 1 and name not in {spec.name for spec in self.outputs}

    def constant(self, name: str) -> NDArray[Any] | None:
        """An initializer, also behind Identity, Transpose or QuantizeLinear; None when it is computed."""
        if name not in self.constants and name in self.made:
            folded = self._fold(self.made[name])
            if folded is not None:
                self.constants[name] = folded
        return self.constants.get(name)

    def _fold(self, node: Node) -> NDArray[Any] | None:
        if node.op not in ("Identity", "Transpose", "QuantizeLinear"):
            return None
        inputs = [self.constant(each) for each in node.inputs]
        first = inputs[0]
        if first is None or node.op == "Identity":
            return first
        if node.op == "Transpose":
            return first.transpose(node.attributes.get("perm"))
        scale, zero_point = inputs[1], inputs[2] if len(inputs) > 2 else np.zeros(1, np.uint8)
        if scale is None or zero_point is None or zero_point.dtype not in (np.int8, np.uint8):
            return None
        attributes = {
            "scale": scale,
            "zero_point": np.broadcast_to(zero_point, scale.shape),
            "axis": node.attributes.get("axis", 1),
            "dtype": _NUMPY[zero_point.dtype.name],
        }
        return host.quantize(attributes, first)


def prepare(source: bytes) -> Any:
    """The ModelProto with batch 1 and without functions and stale shapes. Raises ModelLoadError."""
    import onnx
    from onnx import inliner

    if len(source) > MAX_BYTES:
        raise ModelLoadError(f"the model has {len(source)} bytes, more than {MAX_BYTES}")
    try:
        proto = onnx.load_model_from_string(source)
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
    except Exception as error:  # whatever a parser makes of a corrupt file
        raise ModelLoadError(f"the ONNX file is corrupt ({error}); export the model again") from error
    if not proto.graph.node:
        raise ModelLoadError("the ONNX file has no operators; export the model again")
    if any(each.data_location == onnx.TensorProto.EXTERNAL for each in proto.graph.initializer):
        raise ModelLoadError("the weights lie in another file; save the model with its weights inside")
    constants = {each.name for each in proto.graph.initializer}
    for each in proto.graph.input:
        sizes = each.type.tensor_type.shape.dim
        if each.name not in constants and len(sizes) and not sizes[0].HasField("dim_value"):
            sizes[0].dim_value = 1
    del proto.graph.value_info[:]
    return proto


def read_onnx(source: bytes) -> Model:
    """Raises ModelLoadError for what is no ONNX file, or has open sizes other than the batch."""
    import onnx
    from onnx import numpy_helper

    proto = prepare(source)
    constants = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    nodes = []
    for each in proto.graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in each.attribute}
        if each.op_type == "Constant" and "value" in attributes:
            constants[each.output[0]] = numpy_helper.to_array(attributes["value"])
            continue
        domain = "" if each.domain == "ai.onnx" else each.domain
        nodes.append(Node(each.op_type, domain, each.name, tuple(each.input), tuple(each.output), attributes))
    model = Model(proto, nodes, constants)
    model.learn(_infer(model))
    free = _open_batches(onnx.load_model_from_string(source).graph)
    model.inputs = tuple(
        _spec(model, each.name, free) for each in proto.graph.input if each.name not in constants
    )
    model.outputs = tuple(_spec(model, each.name, free) for each in proto.graph.output)
    return model


def _open_batches(graph: Any) -> set[str]:
    """Inputs and outputs whose first size is open."""
    found = set()
    for each in (*graph.input, *graph.output):
        sizes = each.type.tensor_type.shape.dim
        if len(sizes) and not sizes[0].HasField("dim_value"):
            found.add(each.name)
    return found


def _spec(model: Model, name: str, free: set[str]) -> TensorSpec:
    shape = model.shape(name)
    if not model.dtype(name):
        raise ModelLoadError(
            f"tensor {name!r} has a type that no node takes (FP8, INT4, ...); export it as another"
        )
    try:
        return TensorSpec(name, model.dtype(name), (-1, *shape[1:]) if name in free else shape)
    except ValueError as error:
        raise ModelLoadError(f"{error}; export the model with other inputs and outputs") from error


def _infer(model: Model) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """Type and shape of every tensor."""
    import onnx
    from onnx import shape_inference

    plain = onnx.ModelProto()
    plain.CopyFrom(model.proto)
    for each in plain.graph.output:
        each.type.tensor_type.ClearField("shape")
    zero_points: dict[str, str] = {}
    for node in plain.graph.node:
        if node.domain == MICROSOFT and node.op_type in CONTRIB:
            node.op_type, kept, at = CONTRIB[node.op_type]
            zero_points[node.output[0]] = node.input[at] if at < len(node.input) else ""
            node.domain, node.input[:] = "", list(node.input)[kept]
        elif node.domain == MICROSOFT and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = ""
    try:
        graph = shape_inference.infer_shapes(plain, data_prop=True).graph
    except Exception as error:  # what onnx raises for operators whose inputs do not fit
        raise ModelLoadError(
            f"the operators do not fit together ({error}); export the model again"
        ) from error
    types = {
        each.name: (DTYPES.get(each.type.tensor_type.elem_type, ""), _shape(each))
        for each in (*graph.input, *graph.value_info, *graph.output)
    }
    for name, array in model.constants.items():
        types[name] = (_NUMPY.get(array.dtype.name, ""), array.shape)
    for name, zero_point in zero_points.items():
        types[name] = (
            types[zero_point][0] if zero_point in types else "FP32",
            types.get(name, ("", None))[1],
        )
    return types


_NUMPY = {np.dtype(kind).name: name for kind, name in (
    (np.float32, "FP32"), (np.uint8, "UINT8"), (np.int8, "INT8"), (np.int32, "INT32"), (np.int64, "INT64"),
    (np.float64, "FP64"), (np.bool_, "BOOL"), (np.float16, "FP16"), (np.int16, "INT16"), (np.uint16, "UINT16"),
)}  # fmt: skip


def _shape(value: Any) -> tuple[int, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(size.HasField("dim_value") for size in kind.shape.dim):
        return None
    return tuple(size.dim_value for size in kind.shape.dim)
