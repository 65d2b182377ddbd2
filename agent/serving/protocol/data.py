"""The data of one tensor: between numpy and JSON, and the binary form (Triton's binary tensor data extension).

Every number of FP16 can be written in JSON, so it may be, as an integer or a float may; other servers want it as binary
data. BYTES tensors are object arrays of ``bytes``; in JSON they are text.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from agent.devices.tensors import DTYPES, pack_strings, unpack_strings
from agent.errors import TensorError
from agent.serving.http.messages import RequestError
from agent.serving.protocol.jsontext import dumps
from agent.types import TensorSpec

Array = NDArray[Any]

NUMBER = 25  # characters of the longest, -2.2250738585072014e-308, with its comma
ESCAPED = 6  # bytes of a character at most: \\u0000


def from_binary(data: memoryview, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """An input of which ``data`` is exactly the bytes: a view where its numbers can stay where they lie.

    Raises RequestError 400.
    """
    if spec.dtype == "BYTES":
        try:
            return unpack_strings(data, shape)
        except TensorError as error:
            raise RequestError(400, f"input {spec.name!r}: {error}") from error
    array: Array = np.frombuffer(data, DTYPES[spec.dtype]).reshape(shape)
    if spec.dtype == "BOOL":
        flags: Array = array.view(np.uint8) != 0
        return flags
    return array if array.flags.aligned else array.copy()


def binary_size(spec: TensorSpec, shape: tuple[int, ...]) -> int | None:
    """Bytes of the binary form; None when its strings decide."""
    return None if spec.dtype == "BYTES" else math.prod(shape) * DTYPES[spec.dtype].itemsize


def to_binary(array: Array) -> Array:
    """The binary form as uint8 [n]; a view where it can be one."""
    if array.dtype == np.object_:
        return np.array(bytearray(pack_strings(array)))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """An input given as a list, flat or nested exactly as ``shape``. Raises RequestError 400."""
    if not isinstance(data, list):
        raise RequestError(400, f"input {spec.name!r}: 'data' must be a list")
    flat = _flatten(data, spec, shape)
    return (_strings(flat, spec) if spec.dtype == "BYTES" else _numbers(flat, spec)).reshape(shape)


def to_json(name: str, array: Array) -> bytes:
    """An output as a flat JSON list. NaN and infinities are written as Python's and C++'s parsers read them.

    Raises RequestError 400 for strings that are no text: only the binary form can hold them.
    """
    if array.dtype == np.object_:
        try:
            texts = [item.decode() for item in array.reshape(-1)]
            return dumps(texts, sum(ESCAPED * len(text) + 3 for text in texts))
        except UnicodeDecodeError:
            raise RequestError(
                400, f"output {name!r} is not text (UTF-8) but bytes: ask for it with binary_data true"
            ) from None
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return json.dumps(flat.tolist()).encode()
    return dumps(flat, NUMBER * flat.size, orjson.OPT_SERIALIZE_NUMPY)


def _flatten(data: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> list[Any]:
    flat = data
    if data and isinstance(data[0], list):
        for axis, size in enumerate(shape):
            if axis > 0:
                if set(map(type, flat)) != {list}:
                    raise _bad(spec, f"'data' is not nested as shape {list(shape)}")
                lengths = set(map(len, flat))
                flat = list(chain.from_iterable(flat))
            else:
                lengths = {len(flat)}
            if lengths != {size}:
                raise _bad(spec, f"axis {axis} of 'data' must have {size} elements everywhere")
    if len(flat) != math.prod(shape):
        raise _bad(spec, f"{len(flat)} values; shape {list(shape)} has {math.prod(shape)}")
    return flat


def _strings(flat: list[Any], spec: TensorSpec) -> Array:
    if set(map(type, flat)) != {str}:
        raise _bad(spec, "every value of BYTES must be a string")
    array = np.empty(len(flat), np.object_)
    try:
        array[:] = [text.encode() for text in flat]
    except UnicodeEncodeError:
        raise _bad(spec, "a string holds half of a surrogate pair, which no text has") from None
    return array


def _numbers(flat: list[Any], spec: TensorSpec) -> Array:
    kind = DTYPES[spec.dtype]
    allowed: set[type] = {bool} if kind.kind == "b" else {int} if kind.kind in "iu" else {int, float}
    if not set(map(type, flat)) <= allowed:
        words = " or ".join(sorted(item.__name__ for item in allowed))
        raise _bad(spec, f"every value of {spec.dtype} must be {words}")
    try:
        if kind.kind in "iu":
            unsigned = spec.dtype == "UINT64"
            if unsigned and min(flat) < 0:  # which numpy 1 would wrap round
                raise OverflowError
            wide = np.array(flat, np.uint64 if unsigned else np.int64)
            bounds = np.iinfo(kind.name)
            if wide.min() < bounds.min or wide.max() > bounds.max:
                raise OverflowError
            return wide.astype(kind)
        with np.errstate(over="raise"):
            return np.array(flat, np.float64 if kind.kind == "f" else kind).astype(kind)
    except (OverflowError, FloatingPointError):
        raise _bad(spec, f"a value is out of the range of {spec.dtype}") from None


def _bad(spec: TensorSpec, text: str) -> RequestError:
    return RequestError(400, f"input {spec.name!r}: {text}")
