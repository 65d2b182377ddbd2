"""Where the large tensors of a model file begin and end, so that it is cut there (``package.blocks``).

Both formats are read as bytes, no further than needed: ONNX is a protocol buffer (onnx.proto, ModelProto), TFLite a
FlatBuffer (schema.fbs, Model). Whether a runtime can use the file is for the runtime to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from agent.errors import ModelLoadError

MIN_TENSOR_BYTES = 4096

# Field numbers of onnx.proto.
MODEL_GRAPH, GRAPH_NODE, GRAPH_INITIALIZER, NODE_ATTRIBUTE, ATTRIBUTE_TENSOR = 7, 1, 5, 5, 5
TENSOR_EXTERNAL_DATA = 13
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field indices of schema.fbs and the identifier at offset 4.
TFLITE_IDENTIFIER = b"TFL3"
MODEL_BUFFERS, BUFFER_DATA, BUFFER_OFFSET = 4, 0, 1


def tensor_boundaries(data: bytes, file_format: str) -> list[int]:
    """Offsets of the first byte of, and of the byte after, every stored tensor of at least 4 KiB; ascending.

    ``file_format``: onnx or tflite; other files are not looked into. Raises ModelLoadError when ``data`` is not such a
    file, or keeps its weights in other files.
    """
    if file_format not in ("onnx", "tflite"):
        return []
    read, name = (_onnx_tensors, "an ONNX") if file_format == "onnx" else (_tflite_tensors, "a TFLite")
    try:
        spans = [span for span in read(data) if span[1] - span[0] >= MIN_TENSOR_BYTES]
    except (IndexError, ValueError, struct.error) as error:
        raise ModelLoadError(f"not {name} file, or cut short: {error}; export the model again") from error
    return sorted({edge for span in spans for edge in span})


# -- ONNX --------------------------------------------------------------------------------------------------------------


def _onnx_tensors(data: bytes) -> Iterator[tuple[int, int]]:
    graphs = list(_children(data, 0, len(data), MODEL_GRAPH))
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} graphs")
    begin, end = graphs[0]
    tensors = list(_children(data, begin, end, GRAPH_INITIALIZER))
    for node in _children(data, begin, end, GRAPH_NODE):
        for attribute in _children(data, *node, NODE_ATTRIBUTE):
            tensors += _children(data, *attribute, ATTRIBUTE_TENSOR)
    for tensor in tensors:
        for number, start, stop in _fields(data, *tensor):
            if number == TENSOR_EXTERNAL_DATA:
                raise ModelLoadError(
                    "keeps its weights in other files; save it in one (onnx.save with save_as_external_data=False)"
                )
            yield start, stop


def _children(data: bytes, begin: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    return ((start, stop) for number, start, stop in _fields(data, begin, end) if number == wanted)


def _fields(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of the length-delimited fields of the message at ``data[begin:end]``."""
    at = begin
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            size, start = _varint(data, at)
            at = start + size
            if at <= end:
                yield tag >> 3, start, at
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
    if at != end:
        raise ValueError(f"a field ends at byte {at} of {end}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset after it)."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"an endless number at byte {at}")


# -- TFLite ------------------------------------------------------------------------------------------------------------


def _tflite_tensors(data: bytes) -> Iterator[tuple[int, int]]:
    if data[4:8] != TFLITE_IDENTIFIER:
        raise ValueError("no TFL3 at byte 4")
    buffers = _field(data, _offset(data, 0), MODEL_BUFFERS)
    if buffers is None:
        raise ValueError("no buffers")
    first, count = _vector(data, buffers, 4)
    for index in range(count):
        buffer = _offset(data, first + 4 * index)
        if _field(data, buffer, BUFFER_OFFSET) is not None:
            continue  # stored after the FlatBuffer (files over 2 GB, which a package does not take)
        content = _field(data, buffer, BUFFER_DATA)
        if content is not None:
            start, size = _vector(data, content, 1)
            yield start, start + size


def _offset(data: bytes, at: int) -> int:
    """Follow the offset stored at ``at``."""
    target: int = at + struct.unpack_from("<I", data, at)[0]
    if target >= len(data):
        raise ValueError(f"an offset at byte {at} leads out of the file")
    return target


def _field(data: bytes, table: int, index: int) -> int | None:
    """Where a table's field lies, None when it is not set."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise ValueError(f"a table at byte {table} has its layout before the file")
    at = 4 + 2 * index
    if at + 2 > struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset: int = struct.unpack_from("<H", data, vtable + at)[0]
    return table + offset if offset else None


def _vector(data: bytes, field: int, element_bytes: int) -> tuple[int, int]:
    """(first element's offset, number of elements)."""
    start = _offset(data, field)
    count: int = struct.unpack_from("<I", data, start)[0]
    if start + 4 + count * element_bytes > len(data):
        raise ValueError(f"a vector at byte {start} ends after the file")
    return start + 4, count
