"""Requests as bytes: an HTTP head, the JSON in front of the tensors, and the tensors' own memory.

Format: the Open Inference Protocol V2 and Triton's extensions (binary tensor data, system shared memory).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from agent.devices.tensors import NAMES, pack_strings
from agent.serving.client.errors import BadRequest

Array = NDArray[Any]
Place = tuple[str, int]  # a shared memory region's name, and the offset in it
Outputs = Sequence[str] | Mapping[str, Array] | None

MAX_KNOWN = 256
MAX_TIMEOUT_S = 86_400.0


class Request(NamedTuple):
    """``parts``: objects with the buffer protocol, to send one after the other; ``size``: their bytes."""

    parts: list[Any]
    size: int

    def unsent(self, sent: int) -> list[memoryview]:
        """What is left when ``sent`` bytes have gone."""
        left: list[memoryview] = []
        if sent == self.size:
            return left
        for part in self.parts:
            view = memoryview(part).cast("B")
            if sent < len(view):
                left.append(view[sent:])
            sent = max(0, sent - len(view))
        return left


def get(path: str) -> Request:
    """A request without a body."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    return Request([head], len(head))


def model_path(model: str, tail: str = "") -> str:
    """Raises BadRequest for a name that cannot be one."""
    try:
        return f"/v2/models/{quote(model, safe='')}{tail}"
    except (TypeError, UnicodeEncodeError) as error:
        raise BadRequest(f"model {model!r} is no name: {error}") from error


class InferRequests:
    """Makes requests; the head of one that differs from a former one in its data only is made once.

    ``place``: where an array lies in shared memory, None when it does not.
    """

    def __init__(self, place: Callable[[Array], Place | None]) -> None:
        self._place = place
        self._known: dict[Any, tuple[bytes, int]] = {}

    def make(
        self,
        model: str,
        inputs: Mapping[str, Any],
        outputs: Outputs,
        timeout_s: float | None,
        priority: int,
    ) -> Request:
        """Arrays are not copied. Raises BadRequest."""
        parts: list[Any] = [b""]
        tensors: list[tuple[Any, ...]] = []
        for name, value in inputs.items():
            if type(value) is np.ndarray and value.dtype in _PLAIN and value.flags.c_contiguous:
                kind, shape, data, size = value.dtype, value.shape, value, value.nbytes
            else:
                kind, shape, data, size = _sendable(name, value)
            place = self._place(data)
            if place is None:
                parts.append(data)
            tensors.append((name, kind, shape, size, place))
        wanted = self._wanted(outputs) if outputs else ()
        key = (model, timeout_s, priority, wanted, *tensors)
        known = self._known.get(key)
        if known is None:
            head = _head(model, tensors, wanted, timeout_s, priority)
            known = head, len(head) + sum(size for *_, size, place in tensors if place is None)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = known
        parts[0], size = known
        return Request(parts, size)

    def _wanted(self, outputs: Outputs) -> tuple[Any, ...]:
        assert outputs is not None
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


_PLAIN = {dtype: name for dtype, name in NAMES.items() if dtype.kind in "biuf"}


def _sendable(name: str, value: Any) -> tuple[Any, tuple[int, ...], Any, int]:
    """Of anything like an array: its type, None for strings; its shape; its bytes, an array in C order or the binary
    form of strings; their number."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise BadRequest(f"input {name!r} cannot be made an array: {error}") from error
    if array.dtype.kind in "OSU":
        try:
            strings = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
        except TypeError as error:
            raise BadRequest(f"input {name!r}: an array of objects must hold str or bytes only") from error
        packed = np.empty(len(strings), object)
        packed[:] = strings
        data = pack_strings(packed)
        return None, array.shape, data, len(data)
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if plain.dtype not in _PLAIN:
        raise BadRequest(
            f"input {name!r}: numpy's {array.dtype} is no datatype of the protocol; convert it (astype)"
        )
    return plain.dtype, plain.shape, plain, plain.nbytes


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


def _input(name: str, kind: Any, shape: tuple[int, ...], size: int, place: Place | None) -> dict[str, Any]:
    datatype = "BYTES" if kind is None else _PLAIN[kind]
    parameters = {"binary_data_size": size} if place is None else _region(*place, size)
    return {"name": name, "shape": list(shape), "datatype": datatype, "parameters": parameters}


def _output(name: str, place: tuple[Any, ...] | None) -> dict[str, Any]:
    return {"name": name, "parameters": {"binary_data": True} if place is None else _region(*place)}


def _region(name: str, offset: int, size: int) -> dict[str, Any]:
    return {"shared_memory_region": name, "shared_memory_offset": offset, "shared_memory_byte_size": size}
