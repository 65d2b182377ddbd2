"""Element-wise addition of two tensors of the same shape."""

from __future__ import annotations

from collections.abc import Sequence

from agent.overlay.graph import Add
from agent.overlay.lower.ops import EDGE, OVERHEAD, Compute, Shape
from agent.overlay.lower.views import Range, View, in_steps
from agent.overlay.spec import Overlay

MOST = 4096  # words of one loop


class AddOp:
    """Operands alternate, so a word of the output takes two cycles."""

    shared = False
    parts: tuple[int, ...] = ()

    def __init__(self, spec: Overlay, layer: Add, shape: Shape) -> None:
        self._spec, self._layer = spec, layer
        self.inputs: tuple[str, ...] = (layer.a, layer.b)
        self.shape = shape

    def input_rows(self, rows: Range) -> Range:
        return rows

    def tallest(self, rows: int) -> int:
        return rows

    def input_blocks(self, blocks: Range) -> Range:
        return blocks

    def input_shape(self, which: int) -> Shape:
        del which
        return self.shape

    def cycles(self, rows: int, blocks: int) -> int:
        return 2 * blocks * rows * self.shape.width + OVERHEAD

    def weights(self) -> bytes:
        return b""

    def emit(
        self, sources: Sequence[View], target: View, rows: Range, blocks: Range, parts: Range, weight_row: int
    ) -> list[Compute]:
        del parts, weight_row
        a, b = sources
        # One step leads from block to block of both operands.
        groups = [blocks] if a.plane == b.plane else in_steps(blocks, 1)
        words = (0, (rows[1] - rows[0]) * self.shape.width)
        return [
            self._compute(a, b, target, rows, group, piece)
            for group in groups
            for piece in in_steps(words, MOST)
        ]

    def _compute(self, a: View, b: View, target: View, rows: Range, blocks: Range, piece: Range) -> Compute:
        layer, count_a = self._layer, blocks[1] - blocks[0]
        first_a, first_b = (each.at(blocks[0], rows[0]) + piece[0] for each in (a, b))
        offset = layer.offset & ((1 << 40) - 1)
        fields = {
            "opcode": self._spec.opcodes["ADD"],
            "flags": 0,
            "in_base": first_a,
            "count_a": count_a,
            "step_a": a.plane if count_a > 1 else 0,
            "count_e": piece[1] - piece[0],
            "step_e": 1,
            "count_f": 2,
            "step_f": first_b - first_a,
            "in_h": EDGE,
            "in_w": EDGE,
            "out_base": target.at(blocks[0], rows[0]) + piece[0],
            "out_step": target.plane if count_a > 1 else 0,
            "act_min": layer.low,
            "act_max": layer.high,
            "ratio_a": layer.ratio_a,
            "ratio_b": layer.ratio_b,
            "shift": layer.shift,
            "offset_high": offset >> 32,
            "offset_low": offset & 0xFFFFFFFF,
        }
        reads = (a.area(blocks, rows), b.area(blocks, rows))
        return Compute(fields, reads, (target.area(blocks, rows),))
