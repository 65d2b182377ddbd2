"""TFLite files read through their own schema: tensors by name, operators with options, what is constant."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelLoadError
from agent.types import TensorSpec

MAX_BYTES = 1 << 30
DTYPES = {
    "FLOAT32": "FP32", "FLOAT16": "FP16", "INT32": "INT32", "UINT8": "UINT8", "INT64": "INT64", "BOOL": "BOOL",
    "INT16": "INT16", "INT8": "INT8", "FLOAT64": "FP64", "UINT64": "UINT64", "UINT32": "UINT32",
    "UINT16": "UINT16",
}  # fmt: skip
NUMPY = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8, "INT64": np.int64, "INT8": np.int8}


@dataclass(frozen=True, slots=True)
class Tensor:
    """``dtype`` as in TensorSpec, or the schema's own name; ``scales`` and ``zero_points`` along ``axis``."""

    name: str
    shape: tuple[int, ...]
    free: bool
    dtype: str
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int
    data: NDArray[Any] | None

    @property
    def quantised(self) -> bool:
        """INT8 with one scale: what the overlay holds."""
        return self.dtype == "INT8" and self.scales.size == 1

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, (-1, *self.shape[1:]) if self.free else self.shape)


@dataclass(frozen=True, slots=True)
class Operator:
    """``inputs``: names; None where an optional one is missing. ``options``: the schema's object."""

    kind: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    options: Any

    @property
    def node(self) -> str:
        """Operators have no names; their first output is unique."""
        return self.outputs[0]


@dataclass(frozen=True, slots=True)
class Model:
    tensors: dict[str, Tensor]
    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def unpack(source: bytes) -> Any:
    """The schema's object tree (ModelT). Raises ModelLoadError."""
    from ai_edge_litert import schema_py_generated as schema

    if len(source) > MAX_BYTES or not schema.Model.ModelBufferHasIdentifier(source, 0):
        raise ModelLoadError(
            "not a TFLite file (no TFL3 at byte 4), or larger than 1 GiB; export the model again"
        )
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source, 0))
    except Exception as error:  # whatever a parser makes of a corrupt file
        raise ModelLoadError(f"the TFLite file is corrupt ({error}); export the model again") from error
    if len(model.subgraphs or ()) != 1:
        raise ModelLoadError("the TFLite file has several subgraphs; export one without control flow")
    return model


def tensor_names(model: Any) -> list[str]:
    """A name for each tensor of the one subgraph; those that the file uses twice, or not at all, get their index."""
    names = [(tensor.name or b"").decode("utf-8", "replace") for tensor in model.subgraphs[0].tensors]
    seen = Counter(names)
    return [name if name and seen[name] == 1 else f"{name}#{index}" for index, name in enumerate(names)]


def read_tflite(source: bytes) -> Model:
    """Raises ModelLoadError for what is no TFLite file with one subgraph of fixed shapes (but for the batch)."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(source)
    try:
        return _read(model, schema)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(f"the TFLite file is corrupt ({error}); export the model again") from error


def _read(model: Any, schema: Any) -> Model:
    graph, names = model.subgraphs[0], tensor_names(model)
    types = _by_value(schema.TensorType)
    kinds = _by_value(schema.BuiltinOperator)
    tensors = {
        name: _tensor(name, tensor, types, model.buffers)
        for name, tensor in zip(names, graph.tensors, strict=True)
    }
    operators = []
    for operator in graph.operators or ():
        code = model.operatorCodes[operator.opcodeIndex]
        # schema.fbs: codes above 127 are in the newer field alone, older files have only the older one.
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = tuple(None if index < 0 else names[index] for index in operator.inputs)
        outputs = tuple(names[index] for index in operator.outputs)
        operators.append(Operator(kind, inputs, outputs, operator.builtinOptions))
    return Model(
        tensors,
        tuple(operators),
        tuple(names[i] for i in graph.inputs),
        tuple(names[i] for i in graph.outputs),
    )


def _by_value(names: Any) -> dict[int, str]:
    return {value: name for name, value in vars(names).items() if isinstance(value, int)}


def _tensor(name: str, tensor: Any, types: dict[int, str], buffers: Any) -> Tensor:
    shape = tuple(int(size) for size in (tensor.shape if tensor.shape is not None else ()))
    signature = shape if tensor.shapeSignature is None else tuple(int(size) for size in tensor.shapeSignature)
    if any(size < 0 for size in signature[1:]):
        raise ModelLoadError(
            f"tensor {name!r} has an open size {list(signature)}; only the batch may be open"
        )
    kind = types[tensor.type]
    dtype = DTYPES.get(kind, kind)
    quantisation = tensor.quantization
    scales, zero_points, axis = np.empty(0, np.float32), np.empty(0, np.int64), 0
    if quantisation is not None and quantisation.scale is not None:
        scales = np.asarray(quantisation.scale, np.float32)
        given = quantisation.zeroPoint if quantisation.zeroPoint is not None else ()
        zero_points = np.zeros(scales.size, np.int64) if not len(given) else np.asarray(given, np.int64)
        axis = int(quantisation.quantizedDimension)
    content = buffers[tensor.buffer].data
    data = None
    if content is not None and len(content) and dtype in NUMPY:
        data = np.frombuffer(np.asarray(content, np.uint8).tobytes(), NUMPY[dtype]).reshape(shape)
    return Tensor(name, shape, signature[:1] == (-1,), dtype, scales, zero_points, axis, data)
