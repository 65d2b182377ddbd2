"""Maximum and average pooling, a word a cycle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.overlay.graph import Pool
from agent.overlay.lower import weights as pack
from agent.overlay.lower.ops import EDGE, OVERHEAD, Compute, Shape, weight_area
from agent.overlay.lower.views import Range, View, Window
from agent.overlay.spec import Overlay


class PoolOp:
    """Its one block of parameters (all lanes alike) serves every block."""

    shared = True

    def __init__(
        self, spec: Overlay, layer: Pool, source: Shape, shape: Shape, windows: tuple[Window, Window]
    ) -> None:
        self._spec, self._layer, self._source, self._windows = spec, layer, source, windows
        self.inputs: tuple[str, ...] = (layer.input,)
        self.shape = shape
        self.parts: tuple[int, ...] = (spec.parameter_rows,)

    def input_rows(self, rows: Range) -> Range:
        return self._windows[0].needed(rows)

    def tallest(self, rows: int) -> int:
        return self._windows[0].tallest(rows)

    def input_blocks(self, blocks: Range) -> Range:
        return blocks

    def input_shape(self, which: int) -> Shape:
        del which
        return self._source

    def cycles(self, rows: int, blocks: int) -> int:
        return blocks * rows * self.shape.width * self._windows[0].kernel * self._windows[1].kernel + OVERHEAD

    def weights(self) -> bytes:
        lanes = self._spec.lanes
        bias, scale = (
            np.full(lanes, self._layer.bias, np.int32),
            np.full(lanes, self._layer.scale, np.float32),
        )
        return pack.streams(pack.parameters(bias, scale, lanes), [])

    def emit(
        self, sources: Sequence[View], target: View, rows: Range, blocks: Range, parts: Range, weight_row: int
    ) -> list[Compute]:
        del parts
        (source,), (down, across) = sources, self._windows
        y, x = down.first(rows[0]), across.first(0)
        count_a = blocks[1] - blocks[0]
        fields = {
            "opcode": self._spec.opcodes["POOL"],
            "flags": self._spec.flags["MAX"] if self._layer.maximum else 0,
            "in_base": source.at(blocks[0], y) + x,
            "count_a": count_a,
            "step_a": source.plane if count_a > 1 else 0,
            "count_b": rows[1] - rows[0],
            "step_b": down.stride * source.width,
            "count_c": self.shape.width,
            "step_c": across.stride,
            "count_e": down.kernel,
            "step_e": source.width,
            "count_f": across.kernel,
            "step_f": 1,
            "y0": min(y, 0),
            "x0": min(x, 0),
            "in_h": max(0, min(down.size - max(y, 0), EDGE)),
            "in_w": min(across.size, EDGE),
            "pad_value": self._layer.pad_value,
            "y_b": down.stride,
            "y_e": 1,
            "x_c": across.stride,
            "x_f": 1,
            "zero_point": self._layer.zero_point,
            "act_min": self._layer.low,
            "act_max": self._layer.high,
            "out_base": target.at(blocks[0], rows[0]),
            "out_step": target.plane if count_a > 1 else 0,
            "weight_row": weight_row,
        }
        reads = (
            source.area(blocks, self.input_rows(rows)),
            weight_area(weight_row, self._spec.parameter_rows),
        )
        return [Compute(fields, reads, (target.area(blocks, rows),))]
