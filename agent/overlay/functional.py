"""The golden model: layers of a graph in numpy, on int8 planes ``[C, H, W]``, with the bits that the overlay gives.

Sums of products are float32 matrix products where every partial sum is an integer below 2^24, float64 elsewhere:
exact either way, in any order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay import arith
from agent.overlay.graph import Add, Conv, Foreign, Graph, Host, Int8, Layer, Pads, Pair, Pool, Tensor
from agent.overlay.host import run_host
from agent.overlay.importers.building import inputs_of, outputs_of

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Step = Callable[[dict[str, Int8]], None]
EXACT = 2**24  # float32 holds every integer up to here


class Layers:
    """Prepared layers: weights as matrices, buffers kept from run to run. Not thread-safe."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._steps = [_prepare(layer) for layer in layers]

    def run(self, tensors: Mapping[str, Int8]) -> dict[str, Int8]:
        """Every tensor, int8 ``[C,H,W]`` by name: those given and those that the layers write."""
        found = dict(tensors)
        for step in self._steps:
            step(found)
        return found


def run_layers(layers: Iterable[Layer], tensors: Mapping[str, Int8]) -> dict[str, Int8]:
    """Layers run once; see Layers.run."""
    return Layers(layers).run(tensors)


Foreigner = Callable[[Foreign, Arrays], Arrays]


class GraphRunner:
    """A graph with prepared layers, on arrays as the source model holds them (batch 1). Not thread-safe.

    ``foreign`` runs a Foreign step: it is given the step and its inputs, and returns its outputs.
    """

    def __init__(self, graph: Graph, foreign: Foreigner | None = None) -> None:
        self._graph, self._foreign = graph, foreign
        self._layers = [Layers([step]) if isinstance(step, Layer) else None for step in graph.steps]

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """The outputs by name. Raises ValueError when nothing runs a Foreign step."""
        held: dict[str, Array] = dict(inputs)
        planes: dict[str, Int8] = {}

        def fetch(name: str) -> Array:
            if name not in held:
                held[name] = from_planes(self._graph.tensors[name], planes[name])
            return held[name]

        for step, layer in zip(self._graph.steps, self._layers, strict=True):
            if layer is not None:
                for name in inputs_of(step):
                    if name not in planes:
                        planes[name] = to_planes(self._graph.tensors[name], held[name])
                planes = layer.run(planes)
                continue
            given = {name: fetch(name) for name in inputs_of(step)}
            if isinstance(step, Host):
                held.update(zip(step.outputs, run_host(step, list(given.values())), strict=True))
            elif isinstance(step, Foreign) and self._foreign is not None:
                held.update(self._foreign(step, given))
            else:
                raise ValueError(f"nothing runs {', '.join(outputs_of(step))}")
        return {spec.name: fetch(spec.name) for spec in self._graph.outputs}


def run_graph(graph: Graph, inputs: Arrays, foreign: Foreigner | None = None) -> dict[str, Array]:
    """A graph run once; see GraphRunner."""
    return GraphRunner(graph, foreign).run(inputs)


def to_planes(tensor: Tensor, array: Array) -> Int8:
    """A tensor as the source model holds it (INT8 or UINT8) as int8 ``[C,H,W]``."""
    values = array.view(np.int8) if tensor.dtype == "INT8" else (array ^ np.uint8(0x80)).view(np.int8)
    if tensor.layout == "nchw":
        return values.reshape(tensor.channels, tensor.height, tensor.width)
    return np.ascontiguousarray(
        values.reshape(tensor.height, tensor.width, tensor.channels).transpose(2, 0, 1)
    )


def from_planes(tensor: Tensor, planes: Int8) -> Array:
    """int8 ``[C,H,W]`` as the source model holds it."""
    values = planes if tensor.layout == "nchw" else planes.transpose(1, 2, 0)
    flat = np.ascontiguousarray(values).reshape(tensor.shape)
    return flat if tensor.dtype == "INT8" else flat.view(np.uint8) ^ np.uint8(0x80)


def _prepare(layer: Layer) -> Step:
    if isinstance(layer, Add):
        return lambda found: found.__setitem__(
            layer.output,
            arith.add(
                found[layer.a],
                found[layer.b],
                layer.ratio_a,
                layer.ratio_b,
                layer.offset,
                layer.shift,
                layer.low,
                layer.high,
            ),
        )
    runner = (
        _Pool(layer) if isinstance(layer, Pool) else _Depthwise(layer) if layer.depthwise else _Conv(layer)
    )
    return lambda found: found.__setitem__(layer.output, runner.run(found[layer.input]))


class _Padded:
    """An input as floats in a buffer whose border holds the pad value, and windows on it."""

    def __init__(self, pads: Pads, value: int, dtype: Any) -> None:
        self._pads, self._value, self._dtype = pads, value, dtype
        self._buffer: Array = np.empty((0, 0, 0), dtype)

    def fill(self, planes: Int8) -> Array:
        top, left, bottom, right = self._pads
        channels, height, width = planes.shape
        shape = (channels, height + top + bottom, width + left + right)
        if self._buffer.shape != shape:
            self._buffer = np.full(shape, self._value, self._dtype)
        self._buffer[:, top : top + height, left : left + width] = planes
        return self._buffer


def windows(padded: Array, kernel: Pair, stride: Pair, dilation: Pair) -> Array:
    """A view ``[C, kh, kw, oh, ow]`` of padded planes."""
    channels, height, width = padded.shape
    rows, columns = (
        (length - step * (size - 1) - 1) // jump + 1
        for length, size, jump, step in zip((height, width), kernel, stride, dilation, strict=True)
    )
    plane, row, column = padded.strides
    return np.lib.stride_tricks.as_strided(
        padded,
        (channels, *kernel, rows, columns),
        (plane, row * dilation[0], column * dilation[1], row * stride[0], column * stride[1]),
        writeable=False,
    )


def sum_dtype(weights: NDArray[np.int16], bias: NDArray[np.int32]) -> type[np.float32] | type[np.float64]:
    """float32 when no sum of int8 inputs, whatever its order, leaves the integers that float32 holds."""
    sums = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).sum(axis=1) * 128
    return np.float32 if int((sums + np.abs(bias.astype(np.int64))).max(initial=0)) < EXACT else np.float64


class _Requantise:
    """What every layer but Add ends with."""

    def __init__(self, scale: Array | float, layer: Conv | Pool) -> None:
        self._scale, self._layer = scale, layer

    def __call__(self, sums: Array) -> Int8:
        """``sums``: whole numbers in float32, or in float64 where they may not fit into int32 (then they wrap)."""
        layer = self._layer
        if sums.dtype == np.float64:
            sums = sums.astype(np.int64).astype(np.int32)
        return arith.requantise(sums, self._scale, layer.zero_point, layer.low, layer.high)


class _Conv:
    def __init__(self, layer: Conv) -> None:
        self._layer = layer
        self._dtype = sum_dtype(layer.weights, layer.bias)
        outputs, _, height, width = layer.weights.shape
        self._kernel: Pair = (height, width)
        matrix = layer.weights.reshape(outputs, -1).astype(self._dtype)
        self._matrix = np.concatenate([matrix, layer.bias[:, None].astype(self._dtype)], axis=1)
        self._padded = _Padded(layer.pads, layer.pad_value, self._dtype)
        self._columns: Array = np.empty((0, 0), self._dtype)
        self._requantise = _Requantise(layer.scale, layer)

    def run(self, planes: Int8) -> Int8:
        view = windows(self._padded.fill(planes), self._kernel, self._layer.stride, self._layer.dilation)
        *taps, rows, columns = view.shape
        shape = (int(np.prod(taps)) + 1, rows * columns)
        if self._columns.shape != shape:
            self._columns = np.ones(shape, self._dtype)  # the last row multiplies the bias
        self._columns[:-1].reshape(view.shape)[...] = view
        return self._requantise((self._matrix @ self._columns).reshape(-1, rows, columns))


class _Depthwise:
    def __init__(self, layer: Conv) -> None:
        self._layer = layer
        self._dtype = sum_dtype(layer.weights, layer.bias)
        self._taps = layer.weights.astype(self._dtype)  # [C, 1, kh, kw]
        self._bias = layer.bias.astype(self._dtype)[:, None, None]
        self._padded = _Padded(layer.pads, layer.pad_value, self._dtype)
        self._requantise = _Requantise(layer.scale, layer)

    def run(self, planes: Int8) -> Int8:
        _, _, height, width = self._taps.shape
        view = windows(self._padded.fill(planes), (height, width), self._layer.stride, self._layer.dilation)
        sums = np.empty((view.shape[0], *view.shape[3:]), self._dtype)
        sums[...] = self._bias
        product = np.empty_like(sums)
        for y in range(height):
            for x in range(width):
                np.multiply(view[:, y, x], self._taps[:, :, y, x, None], out=product)
                sums += product
        return self._requantise(sums)


class _Pool:
    def __init__(self, layer: Pool) -> None:
        self._layer = layer
        size = layer.kernel[0] * layer.kernel[1]
        small = size * 128 + abs(layer.bias) < EXACT
        self._dtype = np.int8 if layer.maximum else np.float32 if small else np.float64
        self._padded = _Padded(layer.pads, layer.pad_value, self._dtype)
        self._requantise = _Requantise(layer.scale, layer)

    def run(self, planes: Int8) -> Int8:
        view = windows(self._padded.fill(planes), self._layer.kernel, self._layer.stride, (1, 1))
        if self._layer.maximum:
            highest: Int8 = view.max(axis=(1, 2))
            return np.clip(highest, np.int8(self._layer.low), np.int8(self._layer.high))
        return self._requantise(view.sum(axis=(1, 2)) + self._dtype(self._layer.bias))
