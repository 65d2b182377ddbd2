"""Where a model file is cut into blocks (``package.blocks``), so that a new version has as many blocks of the old one
as possible and neither has too many.

A tensor that is cut out survives new names and another order; each costs two blocks, and a block costs its line in
the manifest and its request. So only the largest are cut out, as many as the budget allows. What lies between them -
names, nodes, small tensors - is cut into runs at places that small tensors' own content decides: a run survives what
changes before and after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from agent.fleet.spans import Span, tensor_spans

MIN_TENSOR_BYTES = 512
# Of the manifest a block is some 90 bytes: 12 KB, and 1.1 % of the file until the manifest would be too large.
BUDGET_BLOCKS, BUDGET_BYTES_PER_BLOCK, MOST_BLOCKS = 128, 8192, 2048
RUN_BYTES, MIN_RUN_BYTES = (
    16384,
    4096,
)  # of files below 16 MiB; twice that from there, four times from 32 MiB, ...
LARGE_FILE_BYTES = 16 << 20
HEADER_BYTES = 64  # what a small tensor's name, shape and type take, about
_LOOKED_AT = 4096  # bytes of a tensor that decide


def tensor_boundaries(data: bytes, file_format: str) -> list[int]:
    """Offsets at which to cut, ascending: before and after the largest tensors, and between runs of small ones.

    ``file_format``: onnx, tflite or npu; other files are not looked into. Raises ModelLoadError when ``data`` is not
    such a file, or keeps its weights in other files.
    """
    spans = sorted(set(tensor_spans(data, file_format)))
    apart = _cut_out(data, spans)
    edges = {edge for span in apart for edge in span}
    small = [span for span in spans if span not in apart]
    return sorted(edges | set(_runs(data, small, sorted(edges))))


def _cut_out(data: bytes, spans: Sequence[Span]) -> set[Span]:
    """The largest tensors; of equal ones those that their content names, whatever their order."""
    budget = min(BUDGET_BLOCKS + len(data) // BUDGET_BYTES_PER_BLOCK, MOST_BLOCKS)
    large = [span for span in spans if span[1] - span[0] >= MIN_TENSOR_BYTES]
    large.sort(key=lambda span: (span[0] - span[1], _mark(data, span)))
    return set(large[: budget // 2])


def _runs(data: bytes, small: Sequence[Span], edges: Sequence[int]) -> Iterator[int]:
    """Ends of runs of small tensors; ``edges``: where the file is cut already."""
    begin = passed = 0
    run_bytes = RUN_BYTES << (len(data) // LARGE_FILE_BYTES).bit_length()
    for start, stop in small:
        while passed < len(edges) and edges[passed] <= stop:
            begin = edges[passed]
            passed += 1
        likely = (stop - start + HEADER_BYTES) / run_bytes
        if stop - begin >= MIN_RUN_BYTES and _mark(data, (start, stop)) < likely * (1 << 32):
            begin = stop
            yield stop


def _mark(data: bytes, span: Span) -> int:
    """A number of 32 bits from a tensor's content."""
    start, stop = span
    return zlib.crc32(data[start : min(stop, start + _LOOKED_AT)])
