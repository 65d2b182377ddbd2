"""JSON of requests: fast where it is ordinary, strict where it is not.

orjson reads a tensor's numbers 5 times and writes them 18 times faster than the standard library, but it keeps the last
of two equal keys and knows no NaN and Infinity, literals that RFC 8259 leaves out and that servers of this protocol
exchange all the same. What it does not take, or might have taken wrongly, the standard library decides.
"""

from __future__ import annotations

import json
import mmap
from typing import Any

import numpy as np
import orjson

from agent.serving.http.messages import RequestError

MAX_DEPTH = 32
MAX_VALUES = 10_000  # beside the tensors' data
MAX_ELEMENTS = 4_000_000  # in all
ELEMENT_BYTES = 96  # of memory that each may take
PARSING = 16  # bytes that orjson takes for each of the text: twelve of its own, and its strings
ARENA = 2 << 20  # Python takes memory from the system in pieces of 1 MiB


def parse_object(data: bytes) -> dict[str, Any]:
    """A request's JSON object. Raises RequestError 400, 413 for more than memory may be spent on."""
    elements = sum(map(data.count, (b",", b"[", b"{")))
    if elements > MAX_ELEMENTS:
        raise RequestError(
            413, f"the request's JSON has more than {MAX_ELEMENTS} values; send its tensors as binary data"
        )
    try:
        document = loads(data, elements)
    except (ValueError, MemoryError):
        document = _strictly(data)
    colons = _survey(document)
    # Outside of strings there is a colon for each key: when one more is in the text, a key was there twice. One that is
    # written as an escape, or lies in the strings of a tensor, makes the numbers differ as well.
    if data.count(b":") != colons or (b"\\" in data and b"\\u003" in data):
        _survey(document := _strictly(data))
    if not isinstance(document, dict):
        raise RequestError(400, "the request must be a JSON object")
    return document


def loads(data: bytes, elements: int) -> Any:
    """orjson's, which ends the process where memory is short; ValueError, MemoryError."""
    _check_room(PARSING * len(data) + ELEMENT_BYTES * elements + ARENA)
    return orjson.loads(data)


def dumps(value: Any, nbytes: int, option: int = 0) -> bytes:
    """orjson's, for text of at most so many bytes; MemoryError."""
    _check_room(2 * nbytes + ARENA)  # its buffer doubles
    return orjson.dumps(value, option=option)


def _check_room(nbytes: int) -> None:
    """MemoryError when so many bytes cannot be had now, from the system or of what the C library has free."""
    try:
        mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        np.empty(nbytes, np.uint8)


def _strictly(data: bytes) -> Any:
    try:
        return _DECODER.decode(str(data, "utf-8"))
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise RequestError(400, f"not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _survey(document: Any) -> int:
    """Colons in the keys and strings, and one for each key; RequestError when it is too deep or too much.

    Lists called "data" are left out: they may be long, and their depth is checked against the tensor's shape.
    """
    colons = seen = 0
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if type(value) is str:
                colons += value.count(":")
            elif type(value) is dict:
                colons += len(value) + "".join(value).count(":")
                inner += [item for key, item in value.items() if key != "data" or type(item) is not list]
            elif type(value) is list:
                inner += value
        if not inner:
            return colons
        seen += len(inner)
        if seen > MAX_VALUES:
            raise RequestError(400, f"the request's JSON has more than {MAX_VALUES} values beside its data")
        level = inner
    raise _too_deep()


def _too_deep() -> RequestError:
    return RequestError(400, f"JSON deeper than {MAX_DEPTH} levels")
