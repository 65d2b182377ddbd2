"""Tensors, the requests that carry them, and the shared memory they lie in, for the tests of the protocol's codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from agent.devices.tensors import DTYPES, NAMES, pack_strings
from agent.serving.http.messages import RequestError
from agent.serving.protocol.data import Array
from agent.types import TensorSpec

WAYS = ("flat", "nested", "binary", "shared")


class Memory:
    """Shared memory of one client: regions by name."""

    def __init__(self, **regions: bytes) -> None:
        self.regions = {name: bytearray(data) for name, data in regions.items()}

    def read(self, name: str, offset: int, nbytes: int, /) -> memoryview:
        return memoryview(self._find(name, offset, nbytes))[offset : offset + nbytes]

    def write(self, name: str, offset: int, array: Array, /) -> None:
        assert array.dtype == np.uint8 and array.ndim == 1
        self._find(name, offset, array.nbytes)[offset : offset + array.nbytes] = array.tobytes()

    def _find(self, name: str, offset: int, nbytes: int) -> bytearray:
        region = self.regions.get(name, bytearray())
        if offset + nbytes > len(region):
            raise RequestError(400, f"{nbytes} bytes at {offset} are not in {name}")
        return region


def strings(items: Any) -> Array:
    """A BYTES tensor of (nested) lists of ``bytes``."""
    shape, flat = [], items
    while isinstance(flat, list):
        shape.append(len(flat))
        flat = flat[0] if flat else b""
    array = np.empty(shape, np.object_)
    array[...] = np.array(items, np.object_)
    return array


@st.composite
def tensors(draw: st.DrawFn, text: bool = False) -> dict[str, Array]:
    """One to three of any datatype; ``text``: with BYTES that are UTF-8, as JSON has them."""
    result = {}
    for name in draw(
        st.lists(st.sampled_from(["a", "b", 'c"ü', "d:e"]), min_size=1, max_size=3, unique=True)
    ):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = draw(array_shapes(min_dims=0, max_dims=4, max_side=4))
        items = st.text(max_size=9).map(str.encode) if text else st.binary(max_size=9)
        result[name] = draw(
            arrays(dtype, shape, elements=items if dtype.kind == "O" else None, fill=st.nothing())
        )
    return result


def specs(values: Mapping[str, Array]) -> list[TensorSpec]:
    return [TensorSpec(name, NAMES[array.dtype], array.shape) for name, array in values.items()]


def as_bytes(array: Array) -> bytes:
    return pack_strings(array) if array.dtype.kind == "O" else array.tobytes()


def as_json(array: Array, nested: bool) -> Any:
    """Its elements as JSON has them."""
    plain = np.vectorize(bytes.decode, otypes=[object])(array) if array.dtype.kind == "O" else array
    return plain.tolist() if nested and array.ndim else plain.reshape(-1).tolist()


def make_request(
    values: Mapping[str, Array], ways: Mapping[str, str], **more: Any
) -> tuple[bytes, str | None, Memory]:
    """A body with these inputs, the value of its header of the JSON's length, and what it reads. ``ways``: of WAYS."""
    inputs, data, memory = [], b"", b""
    for spec, array in zip(specs(values), values.values(), strict=True):
        entry: dict[str, Any] = {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}
        way = ways[spec.name]
        if way == "binary":
            entry["parameters"] = {"binary_data_size": len(as_bytes(array))}
            data += as_bytes(array)
        elif way == "shared":
            entry["parameters"] = {
                "shared_memory_region": "r",
                "shared_memory_offset": len(memory),
                "shared_memory_byte_size": len(as_bytes(array)),
            }
            memory += as_bytes(array)
        else:
            entry["data"] = as_json(array, way == "nested")
        inputs.append(entry)
    head = json.dumps({"id": "r1", "inputs": inputs, **more}).encode()
    return head + data, str(len(head)) if "binary" in ways.values() else None, Memory(r=memory)
