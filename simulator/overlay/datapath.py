"""CONV, DEPTHWISE, POOL and ADD on the on-chip memories, a whole descriptor at once.

Sums are exact: float32 matrix products of INT8 are whole numbers below 2^24 as long as no more than 1024 products are
added, and longer sums are put together in int32, which wraps as the hardware's does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.overlay.arith import add, requantise
from agent.overlay.graph import Int8
from agent.overlay.spec import Overlay

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Index = NDArray[np.intp]
Values = dict[str, int]
EXACT = 1024  # products of two INT8 whose sum float32 holds exactly: 1024 x 2^7 x 2^7 = 2^24
INDEX_BYTES = 64 << 20  # of addresses kept for descriptors that come again
QUAD = 4  # bytes
IN_MASK, OUT_MASK = 0xFFFFF, 0xFFFF  # where the addresses of inputs and outputs wrap
UNPADDED = {"y0": 0, "x0": 0, "y_b": 0, "y_e": 0, "x_c": 0, "x_f": 0, "in_h": 1, "in_w": 1}
WINDOW = 3  # rows and columns of a depthwise kernel


class CoreError(Exception):
    """What the core answers with an error status; ``name`` as in ``errors`` of overlay.toml."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A compute descriptor: its bytes (the key to addresses worked out before) and its fields."""

    data: bytes
    v: Values

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(self.v[f"count_{loop}"] for loop in "abcdef")


class Datapath:
    """The on-chip memories and what computes on them."""

    def __init__(self, spec: Overlay) -> None:
        self._lanes, self._size, self._flags = spec.lanes, spec.memory, spec.flags
        self._parameter_rows, self._pass_rows = spec.parameter_rows, spec.pass_rows
        self._depthwise_rows, self._row_bytes = spec.depthwise_rows, spec.row_bytes
        self._words = spec.memory.activation_words
        self._memory = np.zeros((self._words + 1, self._lanes), np.int8)  # one more word: the pad value
        self.weights: Int8 = np.zeros((spec.memory.weight_rows, spec.row_bytes), np.int8)
        self._sums = np.zeros((spec.memory.accumulators, self._lanes), np.int32)
        self._known: dict[bytes, Index] = {}
        self._known_bytes = 0
        codes = spec.opcodes
        self._run = {
            codes["CONV"]: self._conv, codes["DEPTHWISE"]: self._depthwise, codes["POOL"]: self._pool,
            codes["ADD"]: self._add,
        }  # fmt: skip

    @property
    def activations(self) -> Int8:
        """Words of the activation memory ``[words, lanes]``."""
        return self._memory[: self._words]

    def run(self, descriptor: Descriptor) -> None:
        """Execute one compute descriptor. Raises CoreError."""
        self._memory[self._words] = descriptor.v["pad_value"]
        self._run[descriptor.v["opcode"]](descriptor)

    def _conv(self, descriptor: Descriptor) -> None:
        v, lanes = descriptor.v, self._lanes
        a, b, c, d, e, f = descriptor.counts
        passes, pixels = b * c * d, e * f
        self._check_pixels(pixels)
        rows = self._parameter_rows + passes * self._pass_rows
        bias, scale, rest = self._parameters(self._stream(v["weight_row"], a, rows))
        weights = (
            rest.reshape(a, passes, lanes, lanes).transpose(0, 2, 1, 3).reshape(a, lanes, passes * lanes)
        )
        if v["step_a"]:
            own = self._gather(descriptor, "aefbcd").reshape(a, pixels, -1)
            sums = np.stack([matmul(some, block) for some, block in zip(own, weights, strict=True)])
        else:
            shared = self._gather(descriptor, "efbcd").reshape(pixels, -1)
            sums = matmul(shared, weights.reshape(a * lanes, -1)).reshape(pixels, a, lanes).transpose(1, 0, 2)
        self._accumulate(v, sums, bias, scale)

    def _depthwise(self, descriptor: Descriptor) -> None:
        v, lanes = descriptor.v, self._lanes
        a, _, _, _, e, f = descriptor.counts
        if f > self._size.line_words:
            raise CoreError("TILE")
        sy, sx = max(v["stride_y"], 1), max(v["stride_x"], 1)
        height, width = (e - WINDOW) // sy + 1, (f - WINDOW) // sx + 1
        if v["flags"] & (self._flags["KEEP"] | self._flags["PARTIAL"]):
            self._check_pixels(a * height * width)
        stream = self._stream(v["weight_row"], a, self._parameter_rows + self._depthwise_rows)
        bias, scale, rest = self._parameters(stream)
        taps = rest.reshape(a, -1, lanes)[:, : WINDOW**2].astype(np.float32)
        inputs = self._gather(descriptor, "aef").astype(np.float32)
        if height < 1 or width < 1:
            return
        sums = np.zeros((a, height, width, lanes), np.float32)
        for tap in range(WINDOW**2):
            y, x = divmod(tap, WINDOW)
            window = inputs[:, y : y + (height - 1) * sy + 1 : sy, x : x + (width - 1) * sx + 1 : sx]
            sums += window * taps[:, tap, None, None]
        self._accumulate(v, sums.astype(np.int32).reshape(a, -1, lanes), bias, scale)

    def _pool(self, descriptor: Descriptor) -> None:
        v, lanes = descriptor.v, self._lanes
        a, b, c, _, e, f = descriptor.counts
        bias, scale, _ = self._parameters(self._stream(v["weight_row"], 1, self._parameter_rows))
        windows = self._gather(descriptor, "abcef").reshape(a, b * c, e * f, lanes)
        if v["flags"] & self._flags["MAX"]:
            sums = windows.max(axis=2).astype(np.int32)
        else:
            sums = windows.sum(axis=2, dtype=np.int32) + bias
        self._write(v, requantise(sums, scale, v["zero_point"], v["act_min"], v["act_max"]))

    def _add(self, descriptor: Descriptor) -> None:
        v = descriptor.v
        if v["count_f"] != 2:
            raise CoreError("OPCODE")
        both = self._gather(Descriptor(descriptor.data, v | UNPADDED), "afe")
        offset = v["offset_high"] << 32 | v["offset_low"]
        offset -= offset >> 39 << 40  # 40 bits, signed
        out = add(
            both[:, 0], both[:, 1], v["ratio_a"], v["ratio_b"], offset, v["shift"], v["act_min"], v["act_max"]
        )
        self._write(v, out)

    def _accumulate(self, v: Values, sums: Int32, bias: Int32, scale: Float32) -> None:
        """``sums`` [A, pixels, lanes], with KEEP on what the accumulators hold, to the outputs or, PARTIAL, back."""
        pixels = sums.shape[1]
        sums = sums + (self._sums[:pixels] if v["flags"] & self._flags["KEEP"] else bias)
        if v["flags"] & self._flags["PARTIAL"]:
            self._sums[:pixels] = sums[-1]
        else:
            self._write(v, requantise(sums, scale, v["zero_point"], v["act_min"], v["act_max"]))

    def _write(self, v: Values, out: Int8) -> None:
        """``out`` [A, pixels, lanes] to the activation memory."""
        blocks, pixels, _ = out.shape
        starts = [(v["out_base"] + i * v["out_step"]) & OUT_MASK for i in range(blocks)]
        if max(starts) + pixels > self._words:
            raise CoreError("BOUNDS")
        for first, plane in zip(starts, out, strict=True):
            self._memory[first : first + pixels] = plane

    def _check_pixels(self, pixels: int) -> None:
        if pixels > self._size.accumulators:
            raise CoreError("TILE")

    def _stream(self, row: int, blocks: int, rows: int) -> Int8:
        """``[blocks, bytes]`` of the weight memory."""
        if row + blocks * rows > self._size.weight_rows:
            raise CoreError("BOUNDS")
        return self.weights[row : row + blocks * rows].reshape(blocks, rows * self._row_bytes)

    def _parameters(self, stream: Int8) -> tuple[Int32, Float32, Int8]:
        """Biases and scales, both ``[A, 1, lanes]``, and the rest of the stream."""
        nbytes = 4 * self._lanes
        bias = np.ascontiguousarray(stream[:, :nbytes]).view("<i4")
        scale = np.ascontiguousarray(stream[:, nbytes : 2 * nbytes]).view("<f4")
        return bias[:, None], scale[:, None], stream[:, 2 * nbytes :]

    def _gather(self, descriptor: Descriptor, loops: str) -> Int8:
        """What the datapath reads, one axis for each of ``loops`` and one for lanes."""
        index = self._known.get(descriptor.data)
        if index is None:
            index = addresses(descriptor.v, loops, *self._span(descriptor.v))
            self._keep(descriptor.data, index)
        if descriptor.v["flags"] & self._flags["PACKED"]:
            quads = self._memory.reshape(-1).view(np.int32)
            return quads.take(index[..., None] + np.arange(self._lanes // QUAD)).view(np.int8)
        return self._memory.take(index, axis=0)

    def _keep(self, data: bytes, index: Index) -> None:
        if self._known_bytes > INDEX_BYTES:
            self._known.clear()
            self._known_bytes = 0
        self._known[data] = index
        self._known_bytes += index.nbytes

    def _span(self, v: Values) -> tuple[int, int]:
        """The first address that a read must not start at, and that of the pad word."""
        if v["flags"] & self._flags["PACKED"]:
            quads = self._lanes // QUAD
            return self._words * quads - quads + 1, self._words * quads
        return self._words, self._words


def addresses(v: Values, loops: str, end: int, pad: int) -> Index:
    """in_base + sum of index x step over ``loops``; ``pad`` outside the image.

    Raises CoreError when an address inside the image is not in 0..end-1.
    """
    grid = np.ix_(*(np.arange(v[f"count_{loop}"]) for loop in loops))
    axis = dict(zip(loops, grid, strict=True))
    where = np.asarray(v["in_base"] + sum(axis[loop] * v[f"step_{loop}"] for loop in loops))
    y = v["y0"] + sum(axis[loop] * v[f"y_{loop}"] for loop in "be" if loop in axis)
    x = v["x0"] + sum(axis[loop] * v[f"x_{loop}"] for loop in "cf" if loop in axis)
    inside = np.asarray((y >= 0) & (y < v["in_h"]) & (x >= 0) & (x < v["in_w"]))
    where &= IN_MASK
    if (inside & (where >= end)).any():
        raise CoreError("BOUNDS")
    return np.where(inside, where, pad)


def matmul(left: Int8, right: Int8) -> Int32:
    """``left`` [m, k] x ``right`` [n, k] transposed, in int32, exactly."""
    sums: Int32 | None = None
    for first in range(0, left.shape[1], EXACT):
        some = left[:, first : first + EXACT].astype(np.float32)
        products = (some @ right[:, first : first + EXACT].astype(np.float32).T).astype(np.int32)
        sums = products if sums is None else sums + products
    assert sums is not None
    return sums
