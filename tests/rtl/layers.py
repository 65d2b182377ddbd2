"""Random graphs of INT8 layers: every operator, odd sizes, strides, paddings, dilations, zero points and bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.functional import from_planes
from agent.overlay.graph import Add, Conv, Graph, Int8, Layer, Pads, Pair, Pool, Tensor
from agent.types import TensorSpec

MOST_SIZE, LARGE_SIZE = 48, 130  # rows and columns of an input
MOST_CHANNELS = 72


@dataclass(frozen=True, slots=True)
class Sample:
    """A graph, and inputs as int8 planes ``[C,H,W]``."""

    graph: Graph
    planes: Mapping[str, Int8]

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """As the source model would hold them."""
        return {name: from_planes(self.graph.tensors[name], planes) for name, planes in self.planes.items()}


@dataclass(slots=True)
class Maker:
    """Appends layers to a graph. Every tensor is an output: none is compared less than another."""

    rng: np.random.Generator
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    large: bool = False  # inputs that do not fit on the chip

    def single(self) -> None:
        """One layer of any kind."""
        kinds: tuple[Callable[[], None], ...] = (
            self.dense, self.dense, self.packed, self.connected, self.pointwise, self.depthwise, self.depthwise,
            self.pool, self.both,
        )  # fmt: skip
        kinds[self.rng.integers(len(kinds))]()

    def net(self) -> None:
        """A few layers, the way small nets have them: a first convolution, blocks with a shortcut, a head."""
        self.packed() if self.chance(50) else self.pointwise()
        for _ in range(self.upto(2)):
            last = self.layers[-1].output
            kind = self.upto(3)
            if kind == 0:
                self.conv(last, self.to(40), (3, 3), stride=(1, 1), pads=(1, 1, 1, 1))
                middle = self.layers[-1].output
                self.conv(middle, self.tensors[middle].channels, (3, 3), stride=(1, 1), pads=(1, 1, 1, 1))
                self.add(middle, self.layers[-1].output)
            elif kind == 1:
                self.conv(last, 0, (3, 3), depthwise=True)
                self.conv(self.layers[-1].output, self.to(40), (1, 1))
            elif kind == 2:
                self.pooled(last)
            else:
                self.conv(last, self.to(40), self.kernel(self.tensors[last]))
        if self.chance(50):
            last = self.layers[-1].output
            self.conv(
                last, self.to(20), (self.tensors[last].height, self.tensors[last].width), pads=(0, 0, 0, 0)
            )

    def dense(self) -> None:
        """A convolution over many channels."""
        source = self.source(self.to(MOST_CHANNELS))
        self.conv(source.name, self.to(MOST_CHANNELS), self.kernel(source), dilation=self.dilation())

    def pointwise(self) -> None:
        source = self.source(self.to(MOST_CHANNELS))
        self.conv(source.name, self.to(MOST_CHANNELS), (1, 1))

    def packed(self) -> None:
        """A first convolution, of few channels."""
        source = self.source(self.to(4))
        self.conv(source.name, self.to(MOST_CHANNELS), self.kernel(source, 10), dilation=self.dilation())

    def connected(self) -> None:
        """A kernel as large as its input, often one pixel."""
        size = (1, 1) if self.chance(50) else (self.to(6), self.to(6))
        source = self.source(self.to(300 if size == (1, 1) else 40), size)
        self.conv(source.name, self.to(200 if size == (1, 1) else 40), size, pads=(0, 0, 0, 0))

    def depthwise(self) -> None:
        source = self.source(self.to(MOST_CHANNELS))
        kernel = (3, 3) if self.chance(60) else self.kernel(source)
        dilation = self.dilation() if self.chance(20) else (1, 1)
        self.conv(source.name, 0, kernel, dilation=dilation, depthwise=True)

    def pool(self) -> None:
        self.pooled(self.source(self.to(MOST_CHANNELS)).name)

    def both(self) -> None:
        """Two inputs that are added."""
        a = self.source(self.to(MOST_CHANNELS))
        b = self.source(a.channels, (a.height, a.width))
        self.add(a.name, b.name if self.chance(80) else a.name)

    def source(self, channels: int, size: Pair | None = None) -> Tensor:
        """A new input."""
        least, most = (60, LARGE_SIZE) if self.large else (1, MOST_SIZE if self.chance(30) else 14)
        height, width = size or (int(self.rng.integers(least, most + 1)) for _ in "hw")
        made = self.tensor(f"in{len(self.inputs)}", channels, height, width)
        self.inputs.append(made)
        return made

    def conv(
        self, name: str, outputs: int, kernel: Pair, *, stride: Pair | None = None, pads: Pads | None = None,
        dilation: Pair = (1, 1), depthwise: bool = False,
    ) -> None:  # fmt: skip
        """Outputs spread over all of int8; now and then their sums are larger than float32 holds exactly."""
        source = self.tensors[name]
        outputs = source.channels if depthwise else outputs
        stride = stride or (self.stride(), self.stride())
        pads, size = self.window(source, kernel, stride, dilation, pads)
        shape = (outputs, 1 if depthwise else source.channels, *kernel)
        wide = self.chance(15)  # UINT8 weights less their zero point have nine bits
        weights = self.rng.integers(-255 if wide else -128, 256 if wide else 128, shape, np.int16)
        products = int(np.prod(shape[1:]))
        spread = float(np.sqrt(products)) * (150 if wide else 75) * 75
        bias = (
            self.rng.normal(0, spread, outputs)
            if self.chance(90)
            else self.rng.uniform(-(2**30), 2**30, outputs)
        )
        scale = self.rng.uniform(0.3, 3, outputs) * 60 / spread
        low, high = self.bounds()
        output = self.tensor(f"t{len(self.layers)}", outputs, *size)
        macs = outputs * products * size[0] * size[1]
        self.layers.append(
            Conv(
                f"conv{len(self.layers)}",
                name,
                output.name,
                weights,
                bias.astype(np.int32),
                scale.astype(np.float32),
                stride,
                pads,
                dilation,
                depthwise,
                source.zero_point,
                output.zero_point,
                low,
                high,
                macs,
                (),
            )
        )

    def pooled(self, name: str) -> None:
        """Maximum or average."""
        source, maximum = self.tensors[name], self.chance(50)
        whole = (
            self.chance(30) and not self.large
        )  # of a large input one window can be more than the chip holds
        kernel = (source.height, source.width) if whole else self.kernel(source)
        stride = (self.stride(), self.stride())
        pads, size = self.window(source, kernel, stride, (1, 1), None)
        output = self.tensor(f"t{len(self.layers)}", source.channels, *size)
        count = kernel[0] * kernel[1]
        low, high = self.bounds()
        if maximum:
            rest: tuple[int, int, float, int] = (-128, 0, 1.0, 0)
        else:
            scale = float(np.float32(self.rng.uniform(0.5, 2) / count))
            rest = (source.zero_point, -count * source.zero_point, scale, output.zero_point)
        self.layers.append(
            Pool(
                f"pool{len(self.layers)}",
                name,
                output.name,
                maximum,
                kernel,
                stride,
                pads,
                *rest,
                low,
                high,
                (),
            )
        )

    def add(self, a: str, b: str) -> None:
        shift = int(self.rng.integers(16, 25))
        most = min(1 << 24, 4 << shift)
        ratio_a, ratio_b = (int(self.rng.integers(1, most)) for _ in "ab")
        offset = int(self.rng.integers(-(1 << shift + 7), 1 << shift + 7))
        if self.chance(30):  # every other sum is a tie
            ratio_a, ratio_b, offset = 1 << shift - 1, 1 << shift - 1, (offset >> shift) << shift
        of = self.tensors[a]
        output = self.tensor(f"t{len(self.layers)}", of.channels, of.height, of.width)
        self.layers.append(
            Add(
                f"add{len(self.layers)}",
                a,
                b,
                output.name,
                ratio_a,
                ratio_b,
                offset,
                shift,
                *self.bounds(),
                (),
            )
        )

    def window(
        self, source: Tensor, kernel: Pair, stride: Pair, dilation: Pair, pads: Pads | None
    ) -> tuple[Pads, Pair]:
        """Paddings with which at least one window fits, and the size of the output."""
        reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
        if pads is None:
            top, left, bottom, right = (self.upto(min(3, size - 1)) for size in (*reach, *reach))
            bottom += max(0, reach[0] - (source.height + top + bottom))
            right += max(0, reach[1] - (source.width + left + right))
            pads = (top, left, bottom, right)
        rows = (source.height + pads[0] + pads[2] - reach[0]) // stride[0] + 1
        columns = (source.width + pads[1] + pads[3] - reach[1]) // stride[1] + 1
        return pads, (rows, columns)

    def kernel(self, source: Tensor, most: int = 5) -> Pair:
        if self.chance(50):
            return (3, 3)
        height, width = (min(most, size + 2) for size in (source.height, source.width))
        return (self.to(height), self.to(width))

    def tensor(self, name: str, channels: int, height: int, width: int) -> Tensor:
        layout = "nchw" if self.chance(50) else "nhwc"
        shape = (1, channels, height, width) if layout == "nchw" else (1, height, width, channels)
        dtype = "INT8" if self.chance(50) else "UINT8"
        zero_point = int(self.rng.integers(-128, 128))
        made = self.tensors[name] = Tensor(name, channels, height, width, zero_point, dtype, shape, layout)
        return made

    def bounds(self) -> Pair:
        """Mostly all of int8."""
        low = int(self.rng.integers(-128, 64)) if self.chance(30) else -128
        return low, int(self.rng.integers(low, 128)) if self.chance(30) else 127

    def stride(self) -> int:
        return (1, 1, 1, 2, 2, 3)[self.rng.integers(6)]

    def dilation(self) -> Pair:
        return (self.to(3), self.to(3)) if self.chance(20) else (1, 1)

    def chance(self, percent: int) -> bool:
        return bool(self.rng.integers(100) < percent)

    def to(self, most: int) -> int:
        """1..most."""
        return int(self.rng.integers(1, most + 1))

    def upto(self, most: int) -> int:
        """0..most."""
        return int(self.rng.integers(0, most + 1))

    def finish(self, name: str) -> Sample:
        outputs = [self.tensors[layer.output] for layer in self.layers]
        graph = Graph(name, specs(self.inputs), specs(outputs), self.tensors, tuple(self.layers))
        planes = {
            of.name: self.rng.integers(-128, 128, (of.channels, of.height, of.width), np.int8)
            for of in self.inputs
        }
        return Sample(graph, planes)


def specs(tensors: list[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)


def random_layer(seed: int) -> Sample:
    """A graph of one layer."""
    maker = Maker(np.random.default_rng(seed))
    maker.single()
    return maker.finish(f"layer-{seed}")


def random_large(seed: int) -> Sample:
    """A graph of one layer whose tensors, but for few channels, do not fit on the chip."""
    maker = Maker(np.random.default_rng([seed, 2]), large=True)
    maker.single()
    return maker.finish(f"large-{seed}")


def random_net(seed: int) -> Sample:
    """A graph of some layers."""
    maker = Maker(np.random.default_rng([seed, 1]))
    maker.net()
    return maker.finish(f"net-{seed}")
