"""Inference requests and responses of the Open Inference Protocol V2: JSON, and its binary tensor extension.

Formats: https://github.com/kserve/open-inference-protocol (rest/inference_rest.md) and Triton's binary tensor data
extension. NaN and Infinity are read and written as JSON's usual extra literals, as Triton does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.devices.tensors import DTYPES
from agent.serving.http.messages import RequestError
from agent.types import TensorSpec

Array = NDArray[Any]

MAX_DEPTH = 32
MAX_ID = 1024
# Parameters that change what a request means; ignoring one would answer another question.
UNSUPPORTED = ("shared_memory_region", "classification", "sequence_id", "sequence_start", "sequence_end")
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class RegionSlice:
    """Bytes of a registered shared-memory region."""

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that was asked for. ``region``: where it is written, else it is sent: ``binary`` or as JSON.

    ``classes``: 0 for the tensor itself, k for the k largest of each batch as "value:index" (classification).
    """

    name: str
    binary: bool = False
    region: RegionSlice | None = None
    classes: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """``outputs``: in the order asked for. ``timeout_s``: None when the client set none. ``priority``: 1 is the most
    urgent, 0 the model's default. ``batch``: the free first dimension of the inputs, 1 when none is free."""

    id: str | None
    tensors: Mapping[str, Array]
    outputs: tuple[Wanted, ...]
    timeout_s: float | None = None
    priority: int = 0
    batch: int = 1


class Regions(Protocol):
    """The shared memory that one client may use. Both methods raise RequestError (unknown, out of bounds, not its)."""

    def read(self, name: str, offset: int, nbytes: int, /) -> memoryview:
        """``nbytes`` of the region."""
        ...

    def write(self, name: str, offset: int, array: Array, /) -> None:
        """Put a C-contiguous array's bytes (uint8, one dimension) there."""
        ...


def decode(
    body: memoryview,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    regions: Regions | None = None,  # noqa: ARG001
) -> InferRequest:
    """Read a request for a model with these tensors. Binary tensors are views of ``body``.

    Raises RequestError 400 saying what is wrong and what was expected.
    """
    split = len(body) if header_length is None else _header_length(header_length, len(body))
    document = _parse(body[:split])
    binary = _BinaryData(body[split:], header_length is not None)
    specs = {spec.name: spec for spec in inputs}
    tensors: dict[str, Array] = {}
    for entry in _objects(document, "inputs"):
        name = _name(entry, specs, "input")
        if name in tensors:
            raise _bad(f"input {name!r} is given twice")
        tensors[name] = _tensor(entry, specs[name], binary)
    binary.finish()
    missing = [name for name in specs if name not in tensors]
    if missing:
        raise _bad(f"inputs {missing} are missing")
    batches = {len(tensors[spec.name]) for spec in inputs if spec.dynamic}
    if len(batches) > 1:
        raise _bad("the inputs have different batch sizes (first dimensions)")
    wanted = tuple(Wanted(name, binary) for name, binary in _outputs(document, outputs))
    return InferRequest(_identifier(document), tensors, wanted, batch=batches.pop() if batches else 1)


class _BinaryData:
    """The bytes behind the JSON header, taken tensor by tensor."""

    def __init__(self, data: memoryview, announced: bool) -> None:
        self._data = data
        self._announced = announced
        self._taken = 0

    def take(self, name: str, size: Any, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        if not self._announced:
            raise _bad(f"input {name!r} has binary_data_size, but the header {HEADER_LENGTH} is missing")
        want = math.prod(shape) * DTYPES[spec.dtype].itemsize
        if type(size) is not int or size != want:
            raise _bad(
                f"input {name!r}: binary_data_size {size!r} does not fit; {spec.dtype} {list(shape)} has {want}"
            )
        if len(self._data) - self._taken < size:
            raise _bad(
                f"input {name!r}: {size} bytes announced, {len(self._data) - self._taken} are left in the body"
            )
        piece = self._data[self._taken : self._taken + size]
        self._taken += size
        if spec.dtype == "BOOL":
            flags: Array = (np.frombuffer(piece, np.uint8) != 0).reshape(shape)
            return flags
        array: Array = np.frombuffer(piece, DTYPES[spec.dtype]).reshape(shape)
        return array if array.flags.aligned else array.copy()

    def finish(self) -> None:
        if self._taken != len(self._data):
            raise _bad(
                f"{len(self._data) - self._taken} bytes after the last binary tensor belong to no input"
            )


def _bad(text: str) -> RequestError:
    return RequestError(400, text)


def _header_length(text: str, body: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= body):
        raise _bad(f"{HEADER_LENGTH} {text[:40]!r} is not between 0 and the body's length {body}")
    return int(text)


def _parse(data: memoryview) -> dict[str, Any]:
    try:
        document = json.loads(bytes(data), object_pairs_hook=_unique)
    except RecursionError:
        raise _bad(f"JSON deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _bad(f"not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise _bad("the request must be a JSON object")
    # Tensor data may be long; its depth is checked against the shape.
    bare = [
        {key: value for key, value in entry.items() if key != "data"} if isinstance(entry, dict) else entry
        for entry in _list_of(document.get("inputs"))
    ]
    if _deep({**document, "inputs": bare}, MAX_DEPTH):
        raise _bad(f"JSON deeper than {MAX_DEPTH} levels")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _deep(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_deep(item, levels - 1) for item in value)


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _bad(f"{key!r} must be a list of objects")
    return value


def _parameters(entry: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _bad(f"{where}: 'parameters' must be an object")
    for key in UNSUPPORTED:
        if parameters.get(key):
            raise _bad(f"{where}: parameter {key!r} belongs to an extension that is not supported")
    return parameters


def _flag(parameters: dict[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise _bad(f"parameter {key!r} must be true or false")
    return value


def _identifier(document: dict[str, Any]) -> str | None:
    value = document.get("id")
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_ID):
        raise _bad(f"'id' must be a string of at most {MAX_ID} characters")
    return value


def _name(entry: dict[str, Any], known: Mapping[str, TensorSpec], what: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or name not in known:
        raise _bad(f"{what} {str(name)[:64]!r} is unknown; the model has {list(known)}")
    return name


def _outputs(document: dict[str, Any], specs: Sequence[TensorSpec]) -> tuple[tuple[str, bool], ...]:
    default = _flag(_parameters(document, "request"), "binary_data_output", False)
    if not document.get("outputs"):
        if "outputs" in document:
            _objects(document, "outputs")
        return tuple((spec.name, default) for spec in specs)
    known = {spec.name: spec for spec in specs}
    wanted: dict[str, bool] = {}
    for entry in _objects(document, "outputs"):
        name = _name(entry, known, "output")
        if name in wanted:
            raise _bad(f"output {name!r} is asked for twice")
        wanted[name] = _flag(_parameters(entry, f"output {name!r}"), "binary_data", default)
    return tuple(wanted.items())


def _tensor(entry: dict[str, Any], spec: TensorSpec, binary: _BinaryData) -> Array:
    if entry.get("datatype") != spec.dtype:
        raise _bad(
            f"input {spec.name!r}: datatype must be {spec.dtype}, not {str(entry.get('datatype'))[:32]!r}"
        )
    shape = _shape(entry, spec)
    parameters = _parameters(entry, f"input {spec.name!r}")
    if "binary_data_size" in parameters:
        if "data" in entry:
            raise _bad(f"input {spec.name!r} has both data and binary_data_size")
        return binary.take(spec.name, parameters["binary_data_size"], spec, shape)
    if not isinstance(entry.get("data"), list):
        raise _bad(f"input {spec.name!r}: 'data' must be a list")
    return _numbers(_flatten(entry["data"], spec, shape), spec).reshape(shape)


def _shape(entry: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 < size < 1 << 31 for size in shape[:9]):
        raise _bad(f"input {spec.name!r}: 'shape' must be a list of positive integers")
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, got) for got, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise _bad(f"input {spec.name!r}: shape {str(shape)[:80]} does not fit {list(spec.shape)}")
    return tuple(shape)


def _flatten(data: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> list[Any]:
    """Data that is flat, or nested exactly as ``shape``."""
    flat = data
    if data and isinstance(data[0], list):
        for axis, size in enumerate(shape):
            if axis > 0:
                if set(map(type, flat)) != {list}:
                    raise _bad(f"input {spec.name!r}: 'data' is not nested as shape {list(shape)}")
                lengths = set(map(len, flat))
                flat = list(chain.from_iterable(flat))
            else:
                lengths = {len(flat)}
            if lengths != {size}:
                raise _bad(f"input {spec.name!r}: axis {axis} of 'data' must have {size} elements everywhere")
    if len(flat) != math.prod(shape):
        raise _bad(f"input {spec.name!r}: {len(flat)} values; shape {list(shape)} has {math.prod(shape)}")
    return flat


def _numbers(flat: list[Any], spec: TensorSpec) -> Array:
    kind = DTYPES[spec.dtype]
    allowed: set[type] = {bool} if kind.kind == "b" else {int} if kind.kind in "iu" else {int, float}
    if not set(map(type, flat)) <= allowed:
        words = " or ".join(sorted(item.__name__ for item in allowed))
        raise _bad(f"input {spec.name!r}: every value of {spec.dtype} must be {words}")
    try:
        if kind.kind in "iu":
            wide = np.array(flat, np.uint64 if spec.dtype == "UINT64" else np.int64)
            bounds = np.iinfo(kind.name)
            if wide.min() < bounds.min or wide.max() > bounds.max:
                raise OverflowError
            return wide.astype(kind)
        with np.errstate(over="raise"):
            return np.array(flat, np.float64 if kind.kind == "f" else kind).astype(kind)
    except (OverflowError, FloatingPointError):
        raise _bad(f"input {spec.name!r}: a value is out of the range of {spec.dtype}") from None
