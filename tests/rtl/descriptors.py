"""Random compute descriptors that keep every rule of the instruction set, and chains of them.

A chain loads the whole activation memory and the weights, runs the descriptors and stores the whole activation memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.overlay.spec import Overlay
from tests.rtl.core import Values, chain_bytes, end, load, semaphore, store

QUAD = 4
NO_PADS = {"in_h": 4095, "in_w": 4095}


@dataclass(frozen=True, slots=True)
class Case:
    """``chain`` for region 0 followed there, at ``weights_at``, by ``weights``; ``activations``: region 1."""

    chain: tuple[Values, ...]
    weights_at: int
    weights: bytes
    activations: bytes

    @property
    def program(self) -> bytes:
        """Region 0 with room for the chain."""
        return bytes(self.weights_at) + self.weights


@dataclass(slots=True)
class Area:
    """Words of the activation memory."""

    first: int
    end: int

    def overlaps(self, other: Area) -> bool:
        return self.first < other.end and other.first < self.end


@dataclass(slots=True)
class Maker:
    """Makes descriptors one after the other: their weights follow each other, and DRAIN is set where it must be."""

    spec: Overlay
    rng: np.random.Generator
    rows: list[bytes] = field(default_factory=list)
    row: int = 0
    unread: list[Area] = field(default_factory=list)  # written since the last DRAIN

    def make(self, count: int) -> Case:
        """A chain of ``count`` compute descriptors or a few less, where the weight memory is full."""
        kinds: tuple[Callable[[], list[dict[str, int]]], ...] = (
            self.conv, self.conv, self.packed, self.depthwise, self.depthwise, self.pool, self.add, self.partial,
        )  # fmt: skip
        made: list[dict[str, int]] = []
        while len(made) < count and self.row + 700 < self.spec.memory.weight_rows:
            made += kinds[self.rng.integers(len(kinds))]()
        return self._case(made)

    def conv(self) -> list[dict[str, int]]:
        """CONV on planes, as a layer or with other orders of the loops."""
        kernel_y, kernel_x, blocks = self._to(3), self._to(3), self._to(3)
        stride_y, stride_x, dilation = self._to(3), self._to(3), self._to(2)
        rows, columns = self._tile()
        height, width = self._to(2 * rows + 3), self._to(2 * columns + 3)
        blocks = min(blocks, max(1, 3000 // (height * width)))
        pad_y, pad_x = self._upto(2), self._upto(2)
        source = self._area(blocks * height * width)
        v = self._output("CONV", self._to(3), rows * columns)
        v |= {
            "in_base": source.first - pad_y * width - pad_x, "count_b": kernel_y, "step_b": dilation * width,
            "count_c": kernel_x, "step_c": dilation, "count_d": blocks, "step_d": height * width,
            "count_e": rows, "step_e": stride_y * width, "count_f": columns, "step_f": stride_x,
            "y0": -pad_y, "x0": -pad_x, "in_h": height, "in_w": width,
            "y_b": dilation, "y_e": stride_y, "x_c": dilation, "x_f": stride_x,
        }  # fmt: skip
        if not self._upto(5):  # also as a fully connected layer: every pixel is an input block
            v |= {"count_e": 1, "count_f": 1, "step_e": 0, "step_f": 0, "out_step": 1}
        self._weights(v, self.spec.pass_rows * kernel_y * kernel_x * blocks)
        return self._finish([v], source)

    def packed(self) -> list[dict[str, int]]:
        """CONV on pixels of four bytes."""
        lanes = self.spec.lanes
        rows, columns = self._tile()
        kernel_y, chunks, stride_y, stride_x = self._to(4), self._to(2), self._to(3), self._to(3)
        width = (columns - 1) * stride_x + chunks * (lanes // QUAD) + self._upto(5)
        height = (rows - 1) * stride_y + kernel_y
        source = self._area(-(-(height * width + lanes // QUAD) * QUAD // lanes))
        v = self._output("CONV", self._to(3), rows * columns) | NO_PADS
        v |= {
            "in_base": source.first * (lanes // QUAD) + self._upto(3), "count_b": kernel_y, "step_b": width,
            "count_c": chunks, "step_c": lanes // QUAD, "count_e": rows, "step_e": stride_y * width,
            "count_f": columns, "step_f": stride_x, "flags": self.spec.flags["PACKED"],
        }  # fmt: skip
        self._weights(v, self.spec.pass_rows * kernel_y * chunks)
        return self._finish([v], source)

    def depthwise(self) -> list[dict[str, int]]:
        """3x3 on padded planes."""
        v, source = self._depthwise(self._to(3))
        return self._finish([v], source)

    def pool(self) -> list[dict[str, int]]:
        """Sum or maximum."""
        planes, rows, columns = self._to(3), self._to(6), self._to(6)
        kernel_y, kernel_x, stride_y, stride_x = self._to(4), self._to(4), self._to(3), self._to(3)
        height, width = self._to(rows * stride_y + 2), self._to(columns * stride_x + 2)
        pad_y, pad_x = self._upto(kernel_y - 1), self._upto(kernel_x - 1)
        source = self._area(planes * height * width)
        maximum = self._upto(1)
        v = self._output("POOL", planes, rows * columns)
        v |= {
            "in_base": source.first - pad_y * width - pad_x, "step_a": height * width, "count_b": rows,
            "step_b": stride_y * width, "count_c": columns, "step_c": stride_x, "count_e": kernel_y, "step_e": width,
            "count_f": kernel_x, "step_f": 1, "y0": -pad_y, "x0": -pad_x, "in_h": height, "in_w": width,
            "y_b": stride_y, "y_e": 1, "x_c": stride_x, "x_f": 1, "flags": maximum * self.spec.flags["MAX"],
        }  # fmt: skip
        if maximum:
            v |= {"pad_value": -128, "zero_point": 0}
        alike = (
            (0, 1.0) if maximum else (int(self.rng.integers(-5000, 5000)), float(self.rng.uniform(0.01, 0.3)))
        )
        self._weights(v, 0, alike, blocks=1)
        return self._finish([v], source)

    def add(self) -> list[dict[str, int]]:
        """Two areas of the memory, which may overlap."""
        planes, pixels = self._to(3), self._to(100)
        a, b = self._area(planes * pixels), self._area(planes * pixels)
        shift = int(self.rng.integers(16, 25))
        ratios = [int(self.rng.integers(0, min(2 << shift, 1 << 24))) for _ in "ab"]
        offset = int(self.rng.integers(-(64 << shift), 64 << shift)) & (1 << 40) - 1
        v = self._output("ADD", planes, pixels) | NO_PADS
        v |= {
            "in_base": a.first, "step_a": pixels, "count_e": pixels, "step_e": 1, "count_f": 2,
            "step_f": b.first - a.first, "ratio_a": ratios[0], "ratio_b": ratios[1], "shift": shift,
            "offset_high": offset >> 32, "offset_low": offset & 0xFFFFFFFF,
        }  # fmt: skip
        return self._finish([v], a, b)

    def partial(self) -> list[dict[str, int]]:
        """Sums that stay in the accumulators from descriptor to descriptor."""
        if self._upto(1):
            first, source = self._depthwise(1)
            parts = [first, *(dict(first) for _ in range(self._to(2)))]
            for part in parts[1:]:
                self._weights(part, self.spec.depthwise_rows)
        else:
            rows, columns = self._tile()
            source = self._area(rows * columns)
            shape = {
                "count_e": rows,
                "step_e": columns,
                "count_f": columns,
                "step_f": 1,
                "in_base": source.first,
            }
            parts = [
                self._output("CONV", 1, rows * columns) | shape | NO_PADS for _ in range(1 + self._to(2))
            ]
            for part in parts:
                part["out_base"] = parts[0]["out_base"]
                self._weights(part, self.spec.pass_rows)
        for part in parts[1:]:
            part["flags"] = self.spec.flags["KEEP"]
        for part in parts[:-1]:
            part["flags"] = part.get("flags", 0) | self.spec.flags["PARTIAL"]
        return self._finish(parts, source)

    def _depthwise(self, planes: int) -> tuple[dict[str, int], Area]:
        stride_y, stride_x = self._to(3), self._to(3)
        rows, columns = self._to(8), self._to(20)
        lines, length = (rows - 1) * stride_y + 3, (columns - 1) * stride_x + 3
        pad_y, pad_x = self._upto(2), self._upto(2)
        height, width = max(1, lines - self._upto(4)), max(1, length - self._upto(4))
        source = self._area(planes * height * width)
        v = self._output("DEPTHWISE", planes, rows * columns)
        v |= {
            "in_base": source.first - pad_y * width - pad_x, "step_a": height * width, "count_e": lines,
            "step_e": width, "count_f": length, "step_f": 1, "y0": -pad_y, "x0": -pad_x, "in_h": height, "in_w": width,
            "y_e": 1, "x_f": 1, "stride_y": stride_y, "stride_x": stride_x,
        }  # fmt: skip
        self._weights(v, self.spec.depthwise_rows)
        return v, source

    def _to(self, most: int) -> int:
        return int(self.rng.integers(1, most + 1))

    def _upto(self, most: int) -> int:
        return int(self.rng.integers(0, most + 1))

    def _tile(self) -> tuple[int, int]:
        """Rows and columns of at most as many pixels as there are accumulators, often very few."""
        columns = self._to((1, 3, 8, 24, 40)[self.rng.integers(5)])
        return self._to(min(16, self.spec.memory.accumulators // columns)), columns

    def _area(self, words: int) -> Area:
        first = int(self.rng.integers(0, self.spec.memory.activation_words - words + 1))
        return Area(first, first + words)

    def _output(self, opcode: str, planes: int, pixels: int) -> dict[str, int]:
        step = pixels + self._upto(3)
        low = int(self.rng.integers(-128, 64)) if self._upto(1) else -128
        return {
            "opcode": self.spec.opcodes[opcode], "count_a": planes, "out_step": step,
            "out_base": self._area(planes * step).first, "pad_value": int(self.rng.integers(-128, 128)),
            "zero_point": int(self.rng.integers(-128, 128)), "act_min": low,
            "act_max": int(self.rng.integers(low, 128)) if self._upto(1) else 127,
        }  # fmt: skip

    def _weights(
        self, v: dict[str, int], rows: int, alike: tuple[int, float] | None = None, blocks: int | None = None
    ) -> None:
        """Parameter rows and ``rows`` of random weights for each block of outputs."""
        lanes = self.spec.lanes
        v["weight_row"] = self.row
        for _ in range(blocks or v["count_a"]):
            if alike:
                bias, scale = np.full(lanes, alike[0]), np.full(lanes, alike[1])
            else:
                bias = self.rng.integers(-(2**31), 2**31, lanes) >> self.rng.integers(0, 25, lanes)
                scale = 2.0 ** self.rng.uniform(-16, -4, lanes)
            self.rows.append(bias.astype("<i4").tobytes() + scale.astype("<f4").tobytes())
            self.rows.append(self.rng.bytes(rows * self.spec.row_bytes))
            self.row += self.spec.parameter_rows + rows

    def _finish(self, made: list[dict[str, int]], *sources: Area) -> list[dict[str, int]]:
        """Outputs off the sources, and DRAIN where a source may not have been written yet."""
        v = made[-1]
        words = (v["count_a"] - 1) * v["out_step"] + self._pixels(v)
        written = Area(v["out_base"], v["out_base"] + words)
        while any(written.overlaps(source) for source in sources):
            written = self._area(words)
        for each in made:
            each["out_base"] = written.first
        if not self._upto(4) or any(area.overlaps(source) for area in self.unread for source in sources):
            made[0]["flags"] = made[0].get("flags", 0) | self.spec.flags["DRAIN"]
            self.unread.clear()
        self.unread.append(written)
        return made

    def _pixels(self, v: dict[str, int]) -> int:
        codes = self.spec.opcodes
        if v["opcode"] == codes["POOL"]:
            return v["count_b"] * v["count_c"]
        if v["opcode"] == codes["ADD"]:
            return v["count_e"]
        if v["opcode"] == codes["DEPTHWISE"]:
            return ((v["count_e"] - 3) // v["stride_y"] + 1) * ((v["count_f"] - 3) // v["stride_x"] + 1)
        return v["count_e"] * v["count_f"]

    def _case(self, made: list[dict[str, int]]) -> Case:
        spec, words = self.spec, self.spec.memory.activation_words
        made[0]["wait"] = semaphore(spec, "LOAD_COMPUTE")
        made[-1]["signal"] = semaphore(spec, "COMPUTE_STORE")
        weights_at = chain_bytes(len(made) + 4)
        signal = semaphore(spec, "LOAD_COMPUTE")
        chain = (
            load(spec, region=1, offset=0, chip=0, words=words),
            load(
                spec, region=0, offset=weights_at, chip=0, words=2 * self.row + 2, weights=True, signal=signal
            ),
            *made,
            store(spec, region=2, offset=0, chip=0, words=words, wait=semaphore(spec, "COMPUTE_STORE")),
            end(spec),
        )
        return Case(
            chain,
            weights_at,
            b"".join([*self.rows, bytes(spec.row_bytes)]),
            self.rng.bytes(words * spec.lanes),
        )


def random_case(spec: Overlay, seed: int, count: int) -> Case:
    """A chain of about ``count`` random compute descriptors."""
    return Maker(spec, np.random.default_rng(seed)).make(count)


def words_of(spec: Overlay, data: bytes) -> NDArray[np.int8]:
    """``[words, lanes]``."""
    return np.frombuffer(data, np.int8).reshape(-1, spec.lanes)
