"""Cutting a file into content-addressed blocks.

Cuts at tensor boundaries make equal tensors equal blocks, wherever they lie in a file: a new version costs only
what changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from agent.package.manifest import MAX_BLOCK_BYTES, Block, File
from agent.package.verify import digest_of


def cut(data: bytes, boundaries: Sequence[int], block_bytes: int = MAX_BLOCK_BYTES) -> list[bytes]:
    """Pieces of at most ``block_bytes``, none crossing a boundary (offset in ``data``); joined they are ``data``.

    ValueError when a boundary lies outside the file.
    """
    if not 1 <= block_bytes <= MAX_BLOCK_BYTES:
        raise ValueError(f"block_bytes must be between 1 and {MAX_BLOCK_BYTES}")
    edges = sorted({0, *boundaries, len(data)})
    if edges[0] < 0 or edges[-1] > len(data):
        raise ValueError(f"boundaries must lie within the file's {len(data)} bytes")
    return [
        data[start : min(start + block_bytes, end)]
        for begin, end in itertools.pairwise(edges)
        for start in range(begin, end, block_bytes)
    ]


def file_entry(
    data: bytes, boundaries: Sequence[int] = (), block_bytes: int = MAX_BLOCK_BYTES
) -> tuple[File, list[bytes]]:
    """The manifest's entry of a file (not empty) and its blocks in order."""
    pieces = cut(data, boundaries, block_bytes)
    blocks = tuple(Block(sha256=digest_of(piece), size=len(piece)) for piece in pieces)
    return File(sha256=digest_of(data), size=len(data), blocks=blocks), pieces
