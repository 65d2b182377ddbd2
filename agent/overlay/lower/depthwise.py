"""Depthwise convolutions: 3 x 3 windows over a plane that streams through the line buffers."""

from __future__ import annotations

from collections.abc import Sequence

from agent.overlay.graph import Conv
from agent.overlay.lower import weights as pack
from agent.overlay.lower.ops import EDGE, OVERHEAD, Compute, Shape, weight_area
from agent.overlay.lower.views import Range, View, Window, ceil_div, split_evenly
from agent.overlay.spec import Overlay


class DepthwiseOp:
    """Kernels above 3 x 3, and weights of nine bits, are sums of several windows in the accumulators."""

    shared = False

    def __init__(
        self, spec: Overlay, layer: Conv, source: Shape, shape: Shape, windows: tuple[Window, Window]
    ) -> None:
        kh, kw = layer.weights.shape[2:]
        self._spec, self._layer, self._source = spec, layer, source
        self.inputs: tuple[str, ...] = (layer.input,)
        self.shape = shape
        self._across = ceil_div(kw, pack.TAPS)
        self._down = Window(
            ceil_div(kh, pack.TAPS) * pack.TAPS, windows[0].stride, windows[0].before, source.height
        )
        self._right = windows[1]
        taps = pack.depthwise_taps(layer.weights, spec.lanes)
        self._windows: int = taps.shape[1]
        # Part i is window i mod windows of array i div windows.
        self._arrays = [array[:, each] for array in pack.split_bytes(taps) for each in range(self._windows)]
        self.parts = (spec.parameter_rows + spec.depthwise_rows,) * len(self._arrays)

    @staticmethod
    def fits(spec: Overlay, layer: Conv, shape: Shape) -> bool:
        """Whether the line buffers can do it."""
        width = (shape.width - 1) * layer.stride[1] + pack.TAPS
        one = max(layer.weights.shape[2:]) <= pack.TAPS and not pack.nine_bits(layer.weights)
        # Sums of several windows need an accumulator for each output of a row.
        narrow = one or shape.width <= spec.memory.accumulators
        return layer.dilation == (1, 1) and width <= spec.memory.line_words and narrow

    def input_rows(self, rows: Range) -> Range:
        return self._down.needed(rows)

    def tallest(self, rows: int) -> int:
        return self._down.tallest(rows)

    def input_blocks(self, blocks: Range) -> Range:
        return blocks

    def input_shape(self, which: int) -> Shape:
        del which
        return self._source

    def _streamed(self, rows: int) -> tuple[int, int]:
        """Rows and columns that go through the line buffers, padding included."""
        down, right = self._down.stride, self._right.stride
        return (rows - 1) * down + pack.TAPS, (self.shape.width - 1) * right + pack.TAPS

    def cycles(self, rows: int, blocks: int) -> int:
        tall, wide = self._streamed(rows)
        return blocks * len(self.parts) * tall * wide + OVERHEAD

    def weights(self) -> bytes:
        heads = pack.parameters(self._layer.bias, self._layer.scale, self._spec.lanes)
        return pack.streams(heads, self._arrays)

    def emit(
        self, sources: Sequence[View], target: View, rows: Range, blocks: Range, parts: Range, weight_row: int
    ) -> list[Compute]:
        (source,) = sources
        if len(self.parts) == 1:
            return [self._compute(source, target, rows, blocks, 0, weight_row)]
        found = []
        most = self._spec.memory.accumulators // self.shape.width
        for block in range(*blocks):
            for low, high in split_evenly(rows[1] - rows[0], most):
                row = weight_row
                for part in range(*parts):
                    tile = (rows[0] + low, rows[0] + high)
                    found.append(self._compute(source, target, tile, (block, block + 1), part, row))
                    row += self.parts[part]
            weight_row += sum(self.parts[slice(*parts)])
        return found

    def _compute(
        self, source: View, target: View, rows: Range, blocks: Range, part: int, weight_row: int
    ) -> Compute:
        flags, last = self._spec.flags, part == len(self.parts) - 1
        window = part % self._windows
        y = self._down.first(rows[0]) + window // self._across * pack.TAPS
        x = self._right.first(0) + window % self._across * pack.TAPS
        count_a = blocks[1] - blocks[0]
        tall, wide = self._streamed(rows[1] - rows[0])
        fields = {
            "opcode": self._spec.opcodes["DEPTHWISE"],
            "flags": (flags["KEEP"] if part else 0) | (0 if last else flags["PARTIAL"]),
            "in_base": source.at(blocks[0], y) + x,
            "count_a": count_a,
            "step_a": source.plane if count_a > 1 else 0,
            "count_e": tall,
            "step_e": source.width,
            "count_f": wide,
            "step_f": 1,
            "y0": min(y, 0),
            "x0": min(x, 0),
            "in_h": max(0, min(self._source.height - max(y, 0), EDGE)),
            "in_w": max(0, min(self._source.width - max(x, 0), EDGE)),
            "pad_value": self._layer.pad_value,
            "y_e": 1,
            "x_f": 1,
            "stride_y": self._down.stride,
            "stride_x": self._right.stride,
            "zero_point": self._layer.zero_point,
            "act_min": self._layer.low,
            "act_max": self._layer.high,
            "out_base": target.at(blocks[0], rows[0]),
            "out_step": target.plane if count_a > 1 else 0,
            "weight_row": weight_row,
        }
        reads = (
            source.area(blocks, self.input_rows(rows)),
            weight_area(weight_row, self.parts[part] * count_a),
        )
        return Compute(fields, reads, (target.area(blocks, rows),) if last else ())
