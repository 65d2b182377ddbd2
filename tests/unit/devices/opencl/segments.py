"""Random layers, and segments of them, at the edges of what programs may hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.overlay.graph import Add, Conv, Pads, Pair, Pool, Tensor
from agent.overlay.program import Segment
from tests.unit.devices.opencl.layers import segment_of

KINDS = ("conv", "pointwise", "connected", "depthwise", "maximum", "average", "add")
INT32 = 2**31
Draw = Any  # of hypothesis

int8s = st.one_of(st.integers(-128, 127), st.sampled_from((-128, 127)))
bounds = st.one_of(st.just((-128, 127)), st.tuples(int8s, int8s).map(lambda pair: (min(pair), max(pair))))
scales = st.one_of(
    st.floats(2.0**-17, 2.0**-3, width=32), st.sampled_from((0.0, 1.0, -0.01, 1e-9, 1e30, 2.0**-140, 0.5))
)


@dataclass(slots=True)
class Maker:
    """Layers over tensors, each with ``channels`` up to ``most``."""

    draw: Draw
    most: int = 40
    tensors: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    layers: list[Conv | Pool | Add] = field(default_factory=list)

    def source(self, channels: int, height: int, width: int) -> Tensor:
        """A new input."""
        made = self.tensor(channels, height, width)
        self.inputs.append(made)
        return made

    def tensor(self, channels: int, height: int, width: int) -> Tensor:
        layout = self.draw(st.sampled_from(("nchw", "nhwc")))
        shape = (1, channels, height, width) if layout == "nchw" else (1, height, width, channels)
        dtype, zero_point = self.draw(st.sampled_from(("INT8", "UINT8"))), self.draw(int8s)
        name = f"t{len(self.tensors)}"
        self.tensors.append(Tensor(name, channels, height, width, zero_point, dtype, shape, layout))
        return self.tensors[-1]

    def layer(self, kind: str, source: Tensor) -> None:
        """One more, on ``source``."""
        if kind == "add":
            self._add(source)
        elif kind in ("maximum", "average"):
            self._pool(source, kind == "maximum")
        else:
            self._conv(source, kind)

    def _conv(self, source: Tensor, kind: str) -> None:
        depthwise = kind == "depthwise"
        if kind == "connected":
            kernel, pads = (source.height, source.width), (0, 0, 0, 0)
            stride = dilation = (1, 1)
        elif kind == "pointwise":
            kernel, pads, dilation = (1, 1), (0, 0, 0, 0), (1, 1)
            stride = self._pair(1, 2)
        else:
            kernel, stride, dilation = self._pair(1, 5), self._pair(1, 3), self._pair(1, 3)
            pads = self._pads(source, kernel, dilation)
        outputs = source.channels if depthwise else self.draw(st.integers(1, self.most))
        shape = (outputs, 1 if depthwise else source.channels, *kernel)
        height, width = _size(source, kernel, stride, dilation, pads)
        made = self.tensor(outputs, height, width)
        low, high = self.draw(bounds)
        rng = self._rng()
        self.layers.append(
            Conv(
                f"layer{len(self.layers)}", source.name, made.name, self._weights(rng, shape),
                self._biases(rng, outputs), self._scales(rng, outputs), stride, pads, dilation, depthwise,
                self.draw(int8s), self.draw(int8s), low, high, 0, (),
            )
        )  # fmt: skip

    def _pool(self, source: Tensor, maximum: bool) -> None:
        whole = self.draw(st.booleans())
        kernel = (source.height, source.width) if whole else self._pair(1, 9)
        stride, pads = self._pair(1, 3), self._pads(source, kernel, (1, 1))
        height, width = _size(source, kernel, stride, (1, 1), pads)
        made = self.tensor(source.channels, height, width)
        low, high = self.draw(bounds)
        bias = self.draw(st.one_of(st.integers(-5000, 5000), st.sampled_from((-INT32, INT32 - 1))))
        rest: tuple[int, int, float, int] = (-128, 0, 1.0, 0)
        if not maximum:
            rest = self.draw(int8s), bias, self.draw(scales), self.draw(int8s)
        name = f"layer{len(self.layers)}"
        self.layers.append(
            Pool(name, source.name, made.name, maximum, kernel, stride, pads, *rest, low, high, ())
        )

    def _add(self, a: Tensor) -> None:
        like = [other for other in self.tensors if _planes(other) == _planes(a)]
        b = self.draw(st.sampled_from(like)) if self.draw(st.booleans()) else self.source(*_planes(a))
        made = self.tensor(*_planes(a))
        shift = self.draw(st.integers(0, 24))
        ratios = st.one_of(st.integers(0, 2**24 - 1), st.just(1 << max(shift - 1, 0)))
        reach = min(1 << shift + 8, 2**39)
        offset = self.draw(st.one_of(st.integers(-reach, reach - 1), st.sampled_from((-(2**39), 2**39 - 1))))
        low, high = self.draw(bounds)
        numbers = (self.draw(ratios), self.draw(ratios), offset, shift, low, high)
        self.layers.append(Add(f"layer{len(self.layers)}", a.name, b.name, made.name, *numbers, ()))

    def _weights(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int16]:
        how = self.draw(st.sampled_from((128, 255, "least", "most")))
        if isinstance(how, str):
            return np.full(shape, -255 if how == "least" else 255, np.int16)
        return rng.integers(-how, how + (how == 255), shape, np.int16)

    def _biases(self, rng: np.random.Generator, count: int) -> NDArray[np.int32]:
        """Some with which sums wrap."""
        near = self.draw(st.sampled_from((0, 0, INT32 - 20_000, -INT32 + 20_000)))
        wide: NDArray[np.int64] = near + rng.integers(-20_000, 20_000, count)
        return wide.astype(np.int32)

    def _scales(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        exact: NDArray[np.float64] = rng.uniform(0.5, 2, count) * self.draw(scales)
        return exact.astype(np.float32)

    def _pads(self, source: Tensor, kernel: Pair, dilation: Pair) -> Pads:
        """Paddings with which one window fits at least."""
        top, left, bottom, right = self.draw(st.tuples(*[st.integers(0, 4)] * 4))
        lacking = [
            max(0, (taps - 1) * step + 1 - length - before - after)
            for taps, step, length, before, after in zip(
                kernel, dilation, (source.height, source.width), (top, left), (bottom, right), strict=True
            )
        ]
        return top, left, bottom + lacking[0], right + lacking[1]

    def _pair(self, least: int, most: int) -> Pair:
        drawn: Pair = self.draw(st.tuples(st.integers(least, most), st.integers(least, most)))
        return drawn

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.draw(st.integers(0, 2**32)))


def _planes(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.channels, tensor.height, tensor.width


def _size(source: Tensor, kernel: Pair, stride: Pair, dilation: Pair, pads: Pads) -> Pair:
    padded = (source.height + pads[0] + pads[2], source.width + pads[1] + pads[3])
    rows, columns = (
        (length - (taps - 1) * step - 1) // jump + 1
        for length, taps, step, jump in zip(padded, kernel, dilation, stride, strict=True)
    )
    return rows, columns


@st.composite
def single_layers(draw: Draw, kind: str) -> Segment:
    """A segment of one layer."""
    maker = Maker(draw)
    side = st.integers(1, 6 if kind == "connected" else 20)
    maker.layer(kind, maker.source(draw(st.integers(1, 40)), draw(side), draw(side)))
    return segment_of(maker.layers, maker.inputs, [maker.tensors[-1]])


@st.composite
def many_layers(draw: Draw, most: int = 12) -> Segment:
    """A segment in which any layer reads any tensor there is; small ones. Some are outputs, the last one always."""
    maker = Maker(draw, most=9)
    for _ in range(draw(st.integers(1, 2))):
        maker.source(draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    for _ in range(draw(st.integers(1, most))):
        maker.layer(draw(st.sampled_from(KINDS)), draw(st.sampled_from(maker.tensors)))
    made = [layer.output for layer in maker.layers]
    outputs = {made[-1], *draw(st.lists(st.sampled_from(made), max_size=2))}
    return segment_of(maker.layers, maker.inputs, [each for each in maker.tensors if each.name in outputs])
