"""Convolutions: over planes, over packed pixels of a first layer, and block-diagonal ones for odd depthwise layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.graph import Conv
from agent.overlay.lower import weights as pack
from agent.overlay.lower.ops import EDGE, Compute, Shape, weight_area
from agent.overlay.lower.views import Range, View, Window, ceil_div, split_evenly
from agent.overlay.spec import Overlay

OVERHEAD = 12  # cycles from a descriptor to the next one, about


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the passes: ranges of B, C and D, and which of the arrays that sum up to the weights."""

    b: Range
    c: Range
    d: Range
    array: int

    @property
    def passes(self) -> int:
        return math.prod(end - first for first, end in (self.b, self.c, self.d))


class ConvOp:
    """``passes``: ``[output blocks, B, C, D, lanes, lanes]``. ``packed``: addresses count pixels of four bytes, and B
    goes ``stack`` rows at a time. ``diagonal``: output block a reads input block a."""

    shared = False

    def __init__(
        self,
        spec: Overlay,
        layer: Conv,
        source: Shape,
        shape: Shape,
        windows: tuple[Window, Window],
        passes: NDArray[np.int16],
        stack: int = 0,
        diagonal: bool = False,
    ) -> None:
        self._spec, self._layer, self._source, self._windows = spec, layer, source, windows
        self.inputs: tuple[str, ...] = (layer.input,)
        self.shape = shape
        self._stack, self._diagonal = stack, diagonal
        self._arrays = pack.split_bytes(passes)
        self._counts: tuple[int, int, int] = passes.shape[1:4]
        self._slices = list(self._slice())
        self.parts = tuple(self._rows_of(each) for each in self._slices)

    def _slice(self) -> Iterator[Slice]:
        """Parts whose weights take at most half of the weight memory."""
        b, c, d = self._counts
        most = (self._spec.memory.weight_rows // 2 - self._spec.parameter_rows) // self._spec.pass_rows
        rows = max(1, min(b, most // c))
        columns = max(1, min(c, most // rows))
        blocks = max(1, min(d, most // (rows * columns)))
        ranges = (split_evenly(b, rows), split_evenly(c, columns), split_evenly(d, blocks))
        for array in range(len(self._arrays)):
            for each in itertools.product(*ranges):
                yield Slice(*each, array)

    def _rows_of(self, part: Slice) -> int:
        return self._spec.parameter_rows + part.passes * self._spec.pass_rows

    def input_rows(self, rows: Range) -> Range:
        return self._windows[0].needed(rows)

    def tallest(self, rows: int) -> int:
        return self._windows[0].tallest(rows)

    def input_blocks(self, blocks: Range) -> Range:
        return blocks if self._diagonal else (0, self._source.blocks)

    def input_shape(self, which: int) -> Shape:
        del which
        return self._source

    def cycles(self, rows: int, blocks: int) -> int:
        b, c, d = self._counts
        least, first = self._spec.pass_rows, self._spec.pass_rows + self._spec.parameter_rows
        cycles = 0
        for tile, columns in self._tiles((0, rows)):
            pixels = (tile[1] - tile[0]) * (columns[1] - columns[0])
            passes = (b * c * d - 1) * max(pixels, least) + max(pixels, first)
            cycles += blocks * len(self._arrays) * passes + OVERHEAD
        return cycles

    def weights(self) -> bytes:
        layer = self._layer
        heads = pack.parameters(layer.bias, layer.scale, self._spec.lanes)
        parts: list[NDArray[np.int8]] = []
        for part in self._slices:
            array: NDArray[Any] = self._arrays[part.array]
            chosen = array[:, slice(*part.b), slice(*part.c), slice(*part.d)]
            parts.append(chosen.reshape(len(heads), -1))
        return pack.streams(heads, parts)

    def _tiles(self, rows: Range) -> Iterator[tuple[Range, Range]]:
        """Rows and columns of the output whose sums fit in the accumulators."""
        width, most = self.shape.width, self._spec.memory.accumulators
        tall = most // width
        for low, high in split_evenly(rows[1] - rows[0], max(tall, 1)):
            for columns in [(0, width)] if tall else split_evenly(width, most):
                yield (rows[0] + low, rows[0] + high), columns

    def emit(
        self, sources: Sequence[View], target: View, rows: Range, blocks: Range, parts: Range, weight_row: int
    ) -> list[Compute]:
        (source,) = sources
        if len(self.parts) == 1:
            tiles = self._tiles(rows)
            return [self._compute(source, target, *tile, blocks, 0, weight_row) for tile in tiles]
        found = []
        for block in range(*blocks):
            for tile in self._tiles(rows):
                row = weight_row
                for part in range(*parts):
                    found.append(self._compute(source, target, *tile, (block, block + 1), part, row))
                    row += self.parts[part]
            weight_row += sum(self.parts[slice(*parts)])
        return found

    def _compute(
        self,
        source: View,
        target: View,
        rows: Range,
        columns: Range,
        blocks: Range,
        part: int,
        weight_row: int,
    ) -> Compute:
        each, last = self._slices[part], part == len(self._slices) - 1
        flags = self._spec.flags
        count_a = blocks[1] - blocks[0]
        fields = {
            "opcode": self._spec.opcodes["CONV"],
            "flags": (flags["KEEP"] if part else 0)
            | (0 if last else flags["PARTIAL"])
            | (flags["PACKED"] if self._stack else 0),
            "count_a": count_a,
            "count_b": each.b[1] - each.b[0],
            "count_c": each.c[1] - each.c[0],
            "count_d": each.d[1] - each.d[0],
            "count_e": rows[1] - rows[0],
            "count_f": columns[1] - columns[0],
            "zero_point": self._layer.zero_point,
            "act_min": self._layer.low,
            "act_max": self._layer.high,
            "out_base": target.at(blocks[0], rows[0]) + columns[0],
            "out_step": target.plane if count_a > 1 else 0,
            "weight_row": weight_row,
        }
        fields |= (self._packed if self._stack else self._plane)(source, rows, columns, blocks, each)
        areas = source.area(self.input_blocks(blocks), self.input_rows(rows))
        weights = weight_area(weight_row, self.parts[part] * count_a)
        # A tile of several rows has all columns; one of some columns has one row.
        written = (target.area(blocks, rows),) if last else ()
        return Compute(fields, (areas, weights), written)

    def _plane(self, source: View, rows: Range, columns: Range, blocks: Range, part: Slice) -> dict[str, int]:
        down, across = self._windows
        dy, dx = self._layer.dilation
        # Coordinates have 12 bits; those of a tile far down or right are counted from its own first row and column.
        y, x = down.first(rows[0]) + part.b[0] * dy, across.first(columns[0]) + part.c[0] * dx
        block = blocks[0] if self._diagonal else part.d[0]
        return {
            "in_base": source.at(block, y) + x,
            "step_a": source.plane if self._diagonal and blocks[1] - blocks[0] > 1 else 0,
            "step_b": dy * source.width,
            "step_c": dx,
            "step_d": source.plane,
            "step_e": down.stride * source.width,
            "step_f": across.stride,
            "y0": min(y, 0),
            "x0": min(x, 0),
            "in_h": max(0, min(down.size - max(y, 0), EDGE)),
            "in_w": max(0, min(across.size - max(x, 0), EDGE)),
            "pad_value": self._layer.pad_value,
            "y_b": dy,
            "y_e": down.stride,
            "x_c": dx,
            "x_f": across.stride,
        }

    def _packed(
        self, source: View, rows: Range, columns: Range, blocks: Range, part: Slice
    ) -> dict[str, int]:
        del blocks
        down, across = self._windows
        pixels = self._spec.lanes // 4
        row = down.first(rows[0]) + part.b[0] * self._stack
        return {
            "in_base": source.at(0, row) * pixels + across.first(columns[0]) + part.c[0] * pixels,
            "step_b": self._stack * source.width * pixels,
            "step_c": pixels,
            "step_e": down.stride * source.width * pixels,
            "step_f": across.stride,
            "in_h": EDGE,
            "in_w": EDGE,
        }


def packed_columns(across: Window, chunks: int, outputs: int, pixels: int) -> int:
    """Columns of a packed input, in whole words."""
    return ceil_div(across.first(outputs - 1) + chunks * pixels, pixels) * pixels
