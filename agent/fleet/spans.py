"""Where the tensors of a model file lie.

The formats are read as bytes, no further than needed: ONNX is a protocol buffer (onnx.proto, ModelProto), TFLite a
FlatBuffer (schema.fbs, Model), .npu a header and sections (``overlay.programfile``). Whether a runtime can use the file
is for the runtime to say.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator

from agent.errors import ModelLoadError

Span = tuple[int, int]  # first byte, byte after the last

# Field numbers of onnx.proto.
MODEL_GRAPH, MODEL_FUNCTION, FUNCTION_NODE = 7, 25, 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE_INITIALIZER = 1, 5, 15
NODE_ATTRIBUTE, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = 5, (5, 10), (6, 11), (22, 23)
SPARSE_PARTS = (1, 2)
TENSOR_EXTERNAL_DATA = 13
MAX_GRAPH_DEPTH = 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field indices of schema.fbs and the identifier at offset 4.
TFLITE_IDENTIFIER = b"TFL3"
MODEL_SUBGRAPHS, MODEL_BUFFERS, BUFFER_DATA, BUFFER_OFFSET, BUFFER_SIZE = 2, 4, 0, 1, 2
SUBGRAPH_TENSORS, TENSOR_QUANTIZATION = 0, 4
QUANTIZATION_VECTORS = (
    (0, 4),
    (1, 4),
    (2, 4),
    (3, 8),
)  # min, max, scale, zero_point: field, bytes of an element

NPU_HEAD = struct.Struct("<8sHHI")
NPU_STEP_BYTES = 4096  # a segment's data holds every layer's weights one after the other, without names


def tensor_spans(data: bytes, file_format: str) -> list[Span]:
    """Every stored tensor, as it comes; a file of another format than onnx, tflite and npu has none.

    Raises ModelLoadError when ``data`` is not such a file, or keeps its weights in other files.
    """
    readers = {
        "onnx": (onnx_spans, "an ONNX"),
        "tflite": (tflite_spans, "a TFLite"),
        "npu": (npu_spans, "an overlay program"),
    }
    if file_format not in readers:
        return []
    read, name = readers[file_format]
    try:
        return [span for span in read(data) if span[0] < span[1]]
    except (LookupError, ValueError, TypeError, RecursionError, struct.error) as error:
        raise ModelLoadError(
            f"not {name} file, or cut short: {str(error)[:200]}; export the model again"
        ) from error


# -- ONNX --------------------------------------------------------------------------------------------------------------


def onnx_spans(data: bytes) -> Iterator[Span]:
    """Content of tensors, and what lies before and after the initialisers: nodes and names, which stay when these are
    ordered anew."""
    graphs = list(_children(data, (0, len(data)), MODEL_GRAPH))
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} graphs")
    yield from _around_initialisers(data, graphs[0])
    yield from _graph(data, graphs[0], 0)
    for function in _children(data, (0, len(data)), MODEL_FUNCTION):
        for node in _children(data, function, FUNCTION_NODE):
            yield from _node(data, node, 0)


def _around_initialisers(data: bytes, graph: Span) -> Iterator[Span]:
    """What lies before, between and after initialisers, if there are any."""
    begin = at = graph[0]
    for number, _, stop in _fields(data, *graph):
        if number == GRAPH_INITIALIZER:
            yield begin, at
            begin = stop
        at = stop
    if begin > graph[0]:
        yield begin, at


def _graph(data: bytes, graph: Span, depth: int) -> Iterator[Span]:
    if depth > MAX_GRAPH_DEPTH:
        raise ValueError(f"graphs within graphs, more than {MAX_GRAPH_DEPTH} deep")
    for number, *span in _fields(data, *graph):
        if number == GRAPH_INITIALIZER:
            yield from _tensor(data, (span[0], span[1]))
        elif number == GRAPH_SPARSE_INITIALIZER:
            yield from _sparse(data, (span[0], span[1]))
        elif number == GRAPH_NODE:
            yield from _node(data, (span[0], span[1]), depth)


def _node(data: bytes, node: Span, depth: int) -> Iterator[Span]:
    for attribute in _children(data, node, NODE_ATTRIBUTE):
        for number, *span in _fields(data, *attribute):
            if number in ATTRIBUTE_TENSORS:
                yield from _tensor(data, (span[0], span[1]))
            elif number in ATTRIBUTE_SPARSE:
                yield from _sparse(data, (span[0], span[1]))
            elif number in ATTRIBUTE_GRAPHS:
                yield from _graph(data, (span[0], span[1]), depth + 1)


def _sparse(data: bytes, sparse: Span) -> Iterator[Span]:
    for number, *span in _fields(data, *sparse):
        if number in SPARSE_PARTS:
            yield from _tensor(data, (span[0], span[1]))


def _tensor(data: bytes, tensor: Span) -> Iterator[Span]:
    """Its fields with content, raw or typed; a name that is as long as a tensor is one of them, which harms nobody."""
    for number, start, stop in _fields(data, *tensor):
        if number == TENSOR_EXTERNAL_DATA:
            raise ModelLoadError(
                "keeps its weights in other files; save it in one (onnx.save with save_as_external_data=False)"
            )
        yield start, stop


def _children(data: bytes, message: Span, wanted: int) -> Iterator[Span]:
    return ((start, stop) for number, start, stop in _fields(data, *message) if number == wanted)


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


def tflite_spans(data: bytes) -> Iterator[Span]:
    """Content of the buffers, without the padding that aligns them, inside the FlatBuffer or after it; and tensors'
    scales and zero points, which are a third of an INT8 file."""
    if data[4:8] != TFLITE_IDENTIFIER:
        raise ValueError("no TFL3 at byte 4")
    model = _offset(data, 0)
    if _field(data, model, MODEL_BUFFERS) is None:
        raise ValueError("no buffers")
    for buffer in _tables(data, model, MODEL_BUFFERS):
        yield from _buffer(data, buffer)
    for subgraph in _tables(data, model, MODEL_SUBGRAPHS):
        for tensor in _tables(data, subgraph, SUBGRAPH_TENSORS):
            quantization = _field(data, tensor, TENSOR_QUANTIZATION)
            if quantization is not None:
                yield from _quantization(data, _offset(data, quantization))


def _quantization(data: bytes, table: int) -> Iterator[Span]:
    for index, element_bytes in QUANTIZATION_VECTORS:
        field = _field(data, table, index)
        if field is not None:
            start, count = _vector(data, field, element_bytes)
            yield start, start + count * element_bytes


def _tables(data: bytes, table: int, index: int) -> Iterator[int]:
    """The tables in a table's field, which is a vector of offsets."""
    field = _field(data, table, index)
    if field is not None:
        first, count = _vector(data, field, 4)
        for place in range(first, first + 4 * count, 4):
            yield _offset(data, place)


def _buffer(data: bytes, buffer: int) -> Iterator[Span]:
    offset, size = _number(data, buffer, BUFFER_OFFSET), _number(data, buffer, BUFFER_SIZE)
    if offset > 1:  # schema.fbs: 0 and 1 say that there is none
        if offset + size > len(data):
            raise ValueError(f"the buffer at byte {offset} ends after the file")
        yield offset, offset + size
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


def _number(data: bytes, table: int, index: int) -> int:
    """An unsigned field of 64 bits, 0 when it is not set."""
    at = _field(data, table, index)
    return 0 if at is None else int(struct.unpack_from("<Q", data, at)[0])


def _vector(data: bytes, field: int, element_bytes: int) -> tuple[int, int]:
    """(first element's offset, number of elements)."""
    start = _offset(data, field)
    count: int = struct.unpack_from("<I", data, start)[0]
    if start + 4 + count * element_bytes > len(data):
        raise ValueError(f"a vector at byte {start} ends after the file")
    return start + 4, count


# -- overlay programs --------------------------------------------------------------------------------------------------


def npu_spans(data: bytes) -> Iterator[Span]:
    """The sections; those of segments' data in steps."""
    *_, length = NPU_HEAD.unpack_from(data)
    at = NPU_HEAD.size + length
    header = json.loads(data[NPU_HEAD.size : at])
    segments = {step["data"] for step in header["steps"] if step["kind"] == "segment"}
    for index, size in enumerate(header["sections"]):
        stop = at + size
        if size < 0 or stop > len(data):
            raise ValueError(f"section {index} ends at byte {stop}, after the file")
        step = NPU_STEP_BYTES if index in segments else max(1, size)
        edges = [*range(at, stop, step), stop]
        yield from itertools.pairwise(edges)
        at = stop
