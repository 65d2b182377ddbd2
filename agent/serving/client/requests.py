"""Requests as bytes: an HTTP head, the JSON in front of the tensors, and the tensors' own memory.

Format: the Open Inference Protocol V2 and Triton's extensions (binary tensor data, system shared memory).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from agent.devices.tensors import NAMES, pack_strings
from agent.serving.client.errors import BadRequest

Array = NDArray[Any]
Place = tuple[str, int]  # a shared memory region's name, and the offset in it
Outputs = Sequence[str] | Mapping[str, Array] | None
Parts = list[Any]  # objects with the buffer protocol

MAX_HEADS = 256
MAX_TIMEOUT_S = 86_400.0


def get(path: str) -> Parts:
    """A request without a body."""
    return [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()]


def model_path(model: str, tail: str = "") -> str:
    return f"/v2/models/{quote(model, safe='')}{tail}"


def unsent(parts: Parts, sent: int) -> list[memoryview]:
    """What is left of a request of which ``sent`` bytes have gone."""
    left = []
    for part in parts:
        view = memoryview(part).cast("B")
        if sent < len(view):
            left.append(view[sent:])
        sent = max(0, sent - len(view))
    return left


class InferRequests:
    """Makes requests; the head of one that differs from a former one in its data only is made once.

    ``place``: where an array lies in shared memory, None when it does not.
    """

    def __init__(self, place: Callable[[Array], Place | None]) -> None:
        self._place = place
        self._heads: dict[Any, bytes] = {}

    def make(
        self,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Outputs,
        timeout_s: float | None,
        priority: int,
    ) -> Parts:
        """The pieces to send one after the other; arrays are not copied. Raises BadRequest."""
        parts: Parts = [b""]
        tensors: list[tuple[Any, ...]] = []
        for name, array in inputs.items():
            datatype = _PLAIN.get(array.dtype.str) if type(array) is np.ndarray else None
            data: Any = array
            if datatype is None or not array.flags.c_contiguous:
                datatype, data = _sendable(name, array)
            place = self._place(data)
            if place is None:
                parts.append(data)
            size = data.nbytes if type(data) is np.ndarray else len(data)
            tensors.append((name, datatype, np.shape(array), size, place))
        wanted = self._wanted(outputs)
        key = (model, timeout_s, priority, wanted, *tensors)
        head = self._heads.get(key)
        if head is None:
            head = _head(model, tensors, wanted, timeout_s, priority)
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[key] = head
        parts[0] = head
        return parts

    def _wanted(self, outputs: Outputs) -> tuple[Any, ...]:
        if not outputs:
            return ()
        if not isinstance(outputs, Mapping):
            return tuple((name, None) for name in outputs)
        return tuple((name, (*self._shared(name, array), array.nbytes)) for name, array in outputs.items())

    def _shared(self, name: str, array: Array) -> Place:
        place = self._place(array) if isinstance(array, np.ndarray) and array.flags.c_contiguous else None
        if place is None:
            raise BadRequest(
                f"the array for output {name!r} is not in shared memory; make it with Client.shared()"
            )
        return place


_PLAIN = {dtype.str: name for dtype, name in NAMES.items() if dtype.kind in "biuf"}


def _sendable(name: str, value: Any) -> tuple[str, Any]:
    """The datatype of anything like an array, and its bytes: an array in C order, or the binary form of strings."""
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        try:
            strings = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
        except TypeError as error:
            raise BadRequest(f"input {name!r}: an array of objects must hold str or bytes only") from error
        packed = np.empty(len(strings), object)
        packed[:] = strings
        return "BYTES", pack_strings(packed)
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if plain.dtype.str not in _PLAIN:
        raise BadRequest(
            f"input {name!r}: numpy's {array.dtype} is no datatype of the protocol; convert it (astype)"
        )
    return _PLAIN[plain.dtype.str], plain


def _head(
    model: str,
    tensors: Sequence[tuple[Any, ...]],
    wanted: Sequence[tuple[str, tuple[Any, ...] | None]],
    timeout_s: float | None,
    priority: int,
) -> bytes:
    parameters: dict[str, Any] = {"binary_data_output": True}
    if timeout_s is not None:
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise BadRequest(f"timeout_s must be more than 0 and at most {MAX_TIMEOUT_S:g}, not {timeout_s}")
        parameters["timeout"] = math.ceil(timeout_s * 1e6)
    if priority:
        parameters["priority"] = priority
    document: dict[str, Any] = {"inputs": [_input(*tensor) for tensor in tensors], "parameters": parameters}
    if wanted:
        document["outputs"] = [_output(name, place) for name, place in wanted]
    text = json.dumps(document, separators=(",", ":")).encode()
    length = len(text) + sum(size for *_, size, place in tensors if place is None)
    return (
        f"POST {model_path(model, '/infer')} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {length}\r\nInference-Header-Content-Length: {len(text)}\r\n\r\n"
    ).encode() + text


def _input(
    name: str, datatype: str, shape: tuple[int, ...], size: int, place: Place | None
) -> dict[str, Any]:
    parameters = {"binary_data_size": size} if place is None else _region(*place, size)
    return {"name": name, "shape": list(shape), "datatype": datatype, "parameters": parameters}


def _output(name: str, place: tuple[Any, ...] | None) -> dict[str, Any]:
    return {"name": name, "parameters": {"binary_data": True} if place is None else _region(*place)}


def _region(name: str, offset: int, size: int) -> dict[str, Any]:
    return {"shared_memory_region": name, "shared_memory_offset": offset, "shared_memory_byte_size": size}
