"""How an operation is cut into tiles when some of its values lie in DDR."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from agent.overlay.lower.ops import Op, Shape, weight_rows
from agent.overlay.lower.views import ceil_div
from agent.overlay.spec import Overlay

PORT_BYTES = 8
TRANSFER = 56  # cycles of a LOAD beside its data, about
STORE = 24  # the same of a STORE
TURN = 24  # cycles that are lost from tile to tile, about


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of ``rows`` x ``blocks`` of the output. ``input_words`` and ``output_words``: a buffer for a tile of each
    value in DDR (0: it is on the chip whole), of which there are ``input_buffers`` and ``output_buffers``.

    ``rows_first``: row tiles are the outer loop, otherwise groups of ``blocks`` are. ``cycles``: of all tiles, about.
    """

    rows: int
    blocks: int
    rows_first: bool
    input_words: tuple[int, ...]
    input_buffers: int
    output_words: int
    output_buffers: int
    cycles: int

    @property
    def words(self) -> int:
        """Words of all buffers."""
        return self.input_buffers * sum(self.input_words) + self.output_buffers * self.output_words


def pieces(size: int) -> list[int]:
    """Tile sizes that give different numbers of tiles, the largest first."""
    found = []
    tiles = 1
    while True:
        each = ceil_div(size, tiles)
        found.append(each)
        if each == 1:
            return found
        tiles = ceil_div(size, each - 1)


def tile_shape(op: Op, which: int, rows: int, blocks: int) -> Shape:
    """The largest tile of an input that a tile of the output needs."""
    low, high = op.input_blocks((0, blocks))
    return Shape(high - low, op.tallest(rows), op.input_shape(which).width)


def per_block(op: Op) -> bool:
    """Whether a block of the output needs only that block of the inputs."""
    return op.input_blocks((0, 1)) != op.input_blocks((0, op.shape.blocks)) or op.shape.blocks == 1


def choose(spec: Overlay, op: Op, in_ddr: tuple[bool, ...], out_ddr: bool, words: int) -> Tiling | None:
    """The fastest tiles (by a rough model) whose buffers fit in ``words``; None when no tiles fit."""
    if not any(in_ddr) and not out_ddr:
        rows, blocks = op.shape.height, op.shape.blocks
        return Tiling(rows, blocks, True, (0,) * len(in_ddr), 0, 0, 0, op.cycles(rows, blocks))
    best = None
    for found in _candidates(spec, op, in_ddr, out_ddr, words):
        if best is None or found.cycles < best.cycles:
            best = found
    return best


def _candidates(
    spec: Overlay, op: Op, in_ddr: tuple[bool, ...], out_ddr: bool, words: int
) -> Iterator[Tiling]:
    apart = per_block(op)
    for rows in pieces(op.shape.height):
        row_tiles = ceil_div(op.shape.height, rows)
        for blocks in pieces(op.shape.blocks):
            block_tiles = ceil_div(op.shape.blocks, blocks)
            inputs = tuple(
                tile_shape(op, which, rows, blocks).words if ddr else 0 for which, ddr in enumerate(in_ddr)
            )
            input_tiles = row_tiles * (block_tiles if apart else 1)
            outputs = rows * blocks * op.shape.width if out_ddr else 0
            tiling = Tiling(
                rows, blocks, True, inputs, min(input_tiles, 2) if any(in_ddr) else 0,
                outputs, min(row_tiles * block_tiles, 2) if out_ddr else 0, 0,
            )  # fmt: skip
            if tiling.words > words:
                continue
            for rows_first in (True, False) if row_tiles > 1 and block_tiles > 1 else (True,):
                yield _timed(spec, op, tiling, rows_first, row_tiles, block_tiles)


def _timed(
    spec: Overlay, op: Op, tiling: Tiling, rows_first: bool, row_tiles: int, block_tiles: int
) -> Tiling:
    """While a tile is computed the next one is loaded and the one before stored; the slowest of them counts."""
    beats = spec.lanes // PORT_BYTES
    compute = op.cycles(tiling.rows, tiling.blocks)
    read = sum(tiling.input_words) * beats + TRANSFER * sum(map(bool, tiling.input_words))
    write = tiling.output_words * beats + STORE * bool(tiling.output_words)
    turns = row_tiles * block_tiles
    if rows_first and not per_block(op):  # an input tile serves all blocks
        compute, write, turns = compute * block_tiles, write * block_tiles, row_tiles
    streamed = weight_rows(op, (0, op.shape.blocks if rows_first else tiling.blocks))
    again = row_tiles if streamed > spec.memory.weight_rows else 1
    weights = 2 * weight_rows(op, (0, op.shape.blocks)) * again * beats // turns
    # The first load and the last store hide, mostly, under the layers before and after.
    cycles = turns * (max(compute, read + weights, write) + TURN) + (read + write) // 4
    return dataclasses.replace(tiling, rows_first=rows_first, cycles=cycles)
