"""What a manifest promises, what a runtime reports and what a caller sends: do they fit?

Imports numpy: for workers and the operator's side, not for the daemon.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelLoadError, TensorError
from agent.hal.device import Tensors
from agent.types import TensorSpec

# Open Inference Protocol datatypes as numpy holds them; the objects of BYTES (strings) are ``bytes``.
DTYPES = {
    "BOOL": np.dtype(np.bool_), "INT8": np.dtype(np.int8), "UINT8": np.dtype(np.uint8),
    "INT16": np.dtype(np.int16), "UINT16": np.dtype(np.uint16), "FP16": np.dtype(np.float16),
    "INT32": np.dtype(np.int32), "UINT32": np.dtype(np.uint32), "FP32": np.dtype(np.float32),
    "INT64": np.dtype(np.int64), "UINT64": np.dtype(np.uint64), "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}  # fmt: skip
_LENGTH = struct.Struct("<I")
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor as a runtime reports it; None in ``shape`` is a size that the model leaves open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join('any' if size is None else str(size) for size in self.shape)}]"


def agree(promised: Sequence[TensorSpec], found: Sequence[Found], what: str) -> tuple[TensorSpec, ...]:
    """The runtime's tensors, in its order, with open sizes filled in from the manifest.

    ``what`` ("input", "output") names them in the ModelLoadError that is raised when names, datatypes or shapes differ.
    """
    by_name = {spec.name: spec for spec in promised}
    names = [tensor.name for tensor in found]
    if sorted(by_name) != sorted(names):
        raise ModelLoadError(
            f"the manifest promises {what}s {sorted(by_name)}, the model has {sorted(names)}"
        )
    return tuple(_agree_one(by_name[tensor.name], tensor, what) for tensor in found)


def _agree_one(spec: TensorSpec, tensor: Found, what: str) -> TensorSpec:
    sizes_fit = len(spec.shape) == len(tensor.shape) and all(
        has is None or wants == has for wants, has in zip(spec.shape, tensor.shape, strict=True)
    )
    if spec.dtype != tensor.dtype or not sizes_fit:
        raise ModelLoadError(
            f"{what} {spec.name!r}: the manifest promises {_text(spec)}, the model has {tensor}"
        )
    return spec


def check_inputs(specs: Sequence[TensorSpec], tensors: Tensors) -> int:
    """The batch size of ``tensors`` (1 when no spec leaves it open); TensorError when they do not fit ``specs``."""
    if tensors.keys() != {spec.name for spec in specs}:
        raise TensorError(f"wanted inputs {sorted(spec.name for spec in specs)}, got {sorted(tensors)}")
    batch: int | None = None
    for spec in specs:
        array = tensors[spec.name]
        if not isinstance(array, np.ndarray):
            raise TensorError(f"input {spec.name!r}: wanted a numpy array, got {type(array).__name__}")
        if spec.dynamic and batch is None and array.ndim:
            batch = array.shape[0]
        if array.dtype != DTYPES[spec.dtype] or array.shape != spec.concrete(batch or 1):
            got = f"{NAMES.get(array.dtype, str(array.dtype))} {list(array.shape)}"
            same = f" with batch {batch} as in the other inputs" if spec.dynamic and len(specs) > 1 else ""
            raise TensorError(f"input {spec.name!r}: wanted {_text(spec)}{same}, got {got}")
        if not array.flags.c_contiguous:
            raise TensorError(
                f"input {spec.name!r}: wanted C-contiguous memory, got strides {list(array.strides)}; "
                "copy it with numpy.ascontiguousarray"
            )
    return batch or 1


def pack_strings(array: NDArray[Any]) -> bytes:
    """The binary form of a BYTES tensor: of each element its length (see ``DTYPE_SIZES``), then its bytes."""
    return b"".join([part for item in array.reshape(-1) for part in (_LENGTH.pack(len(item)), item)])


def unpack_strings(data: bytes | memoryview, shape: Sequence[int]) -> NDArray[Any]:
    """Inverse of ``pack_strings``. Raises TensorError when ``data`` is not exactly so many strings."""
    data, count = bytes(data), math.prod(shape)
    if count * _LENGTH.size > len(data):
        raise TensorError(f"{len(data)} bytes are too few for {count} strings with their lengths")
    items, at = [], 0
    for _ in range(count):
        start = at + _LENGTH.size
        if start > len(data):
            break
        at = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        items.append(data[start:at])
    if len(items) != count or at != len(data):
        raise TensorError(f"the lengths of {count} strings do not add up to {len(data)} bytes")
    array = np.empty(count, np.object_)
    array[:] = items
    return array.reshape(shape)


def _text(spec: TensorSpec) -> str:
    return f"{spec.dtype} [{', '.join('any' if size == -1 else str(size) for size in spec.shape)}]"
