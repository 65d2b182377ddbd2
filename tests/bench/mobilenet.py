"""MobileNetV1 for 224 x 224 images with random weights: a graph of the size of real vision networks."""

from __future__ import annotations

import numpy as np

from agent.overlay.graph import Conv, Graph, Layer, Pool, Tensor
from agent.types import TensorSpec

SEED = 224
# Output channels and stride of the depthwise convolutions' pointwise partners.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
CLASSES = 1000


def mobilenet_graph(size: int = 224, width: float = 1.0, classes: int = CLASSES) -> Graph:
    """INT8 ``[1, 3, size, size]`` to ``[1, classes]``; ``width`` scales the channels."""
    return _Maker(size).graph(width, classes)


class _Maker:
    def __init__(self, size: int) -> None:
        self._rng = np.random.default_rng(SEED)
        self._layers: list[Layer] = []
        self._last = _planes("input", 3, size)
        self._tensors = {"input": self._last}

    def graph(self, width: float, classes: int) -> Graph:
        first = self._last
        self._conv(round(32 * width), 3, 2)
        for channels, stride in BLOCKS:
            self._conv(self._last.channels, 3, stride, depthwise=True)
            self._conv(round(channels * width), 1, 1)
        self._average()
        self._conv(classes, 1, 1)
        specs = (
            TensorSpec("input", "INT8", first.shape),
            TensorSpec(self._last.name, "INT8", self._last.shape),
        )
        return Graph("mobilenet", (specs[0],), (specs[1],), self._tensors, tuple(self._layers))

    def _conv(self, channels: int, kernel: int, stride: int, depthwise: bool = False) -> None:
        source = self._last
        size = -(-source.height // stride)
        self._to(channels, size)
        into = 1 if depthwise else source.channels
        weights = self._rng.integers(-127, 128, (channels, into, kernel, kernel)).astype(np.int16)
        taps = into * kernel * kernel
        zero = source.zero_point * weights.sum((1, 2, 3), dtype=np.int64)
        bias = (self._rng.integers(-4000, 4000, channels) - zero).astype(np.int32)
        scale = (self._rng.uniform(0.7, 1.3, channels) / (100 * np.sqrt(taps))).astype(np.float32)
        # As "same" in TensorFlow: what is odd goes to the bottom and the right.
        pad = max(0, (size - 1) * stride + kernel - source.height)
        pads = (pad // 2, pad // 2, pad - pad // 2, pad - pad // 2)
        name = self._last.name
        macs = weights.size * size * size
        self._layers.append(
            Conv(
                name, source.name, name, weights, bias, scale, (stride, stride), pads, (1, 1), depthwise,
                source.zero_point, self._last.zero_point, -128, 127, macs, (name,),
            )
        )  # fmt: skip

    def _average(self) -> None:
        source = self._last
        kernel = (source.height, source.width)
        taps = source.height * source.width
        self._to(source.channels, 1)
        name = self._last.name
        self._layers.append(
            Pool(
                name, source.name, name, False, kernel, (1, 1), (0, 0, 0, 0), source.zero_point,
                -taps * source.zero_point, float(np.float32(4 / taps)), self._last.zero_point, -128, 127, (name,),
            )
        )  # fmt: skip

    def _to(self, channels: int, size: int) -> None:
        self._last = _planes(f"layer{len(self._layers)}", channels, size)
        self._tensors[self._last.name] = self._last


def _planes(name: str, channels: int, size: int) -> Tensor:
    return Tensor(name, channels, size, size, -5, "INT8", (1, channels, size, size), "nchw")
