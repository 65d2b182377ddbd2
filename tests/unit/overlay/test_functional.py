"""The golden model against sums in Python's integers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.overlay import arith
from agent.overlay.functional import Layers, from_planes, run_layers, sum_dtype, to_planes
from agent.overlay.graph import Add, Conv, Int8, Pool, Tensor

Sums = NDArray[np.int64]


def padded(planes: Int8, pads: tuple[int, ...], value: int) -> Sums:
    top, left, bottom, right = pads
    return np.pad(planes.astype(np.int64), ((0, 0), (top, bottom), (left, right)), constant_values=value)


def random_conv(rng: np.random.Generator, depthwise: bool, span: int = 255) -> tuple[Conv, Int8]:
    channels, outputs = rng.integers(1, 9, 2).tolist()
    height, width, *_ = kernel = rng.integers(1, 4, 2).tolist()
    outputs = channels if depthwise else outputs
    shape = (outputs, 1 if depthwise else channels, height, width)
    layer = Conv(
        name="conv", input="x", output="y",
        weights=rng.integers(-span, span + 1, shape).astype(np.int16),
        bias=rng.integers(-50_000, 50_000, outputs).astype(np.int32),
        scale=rng.uniform(1e-4, 3e-3, outputs).astype(np.float32),
        stride=tuple(rng.integers(1, 4, 2).tolist()), pads=tuple(rng.integers(0, 3, 4).tolist()),
        dilation=tuple(rng.integers(1, 3, 2).tolist()), depthwise=depthwise,
        pad_value=int(rng.integers(-128, 128)), zero_point=int(rng.integers(-128, 128)),
        low=int(rng.integers(-128, -60)), high=int(rng.integers(60, 128)), macs=0, nodes=("conv",),
    )  # fmt: skip
    size = [step * (length - 1) + 1 for step, length in zip(layer.dilation, kernel, strict=True)]
    planes = rng.integers(-128, 128, (channels, *(rng.integers(0, 9, 2) + size).tolist())).astype(np.int8)
    return layer, planes


def sums(layer: Conv, planes: Int8) -> Sums:
    data = padded(planes, layer.pads, layer.pad_value)
    outputs, _, height, width = layer.weights.shape
    rows, columns = (
        (length - step * (size - 1) - 1) // stride + 1
        for length, step, size, stride in zip(
            data.shape[1:], layer.dilation, (height, width), layer.stride, strict=True
        )
    )
    found = np.zeros((outputs, rows, columns), np.int64)
    for out, y, x in itertools.product(range(outputs), range(rows), range(columns)):
        top, left = y * layer.stride[0], x * layer.stride[1]
        part = data[
            :, top : top + layer.dilation[0] * (height - 1) + 1 : layer.dilation[0],
            left : left + layer.dilation[1] * (width - 1) + 1 : layer.dilation[1],
        ]  # fmt: skip
        part = part[out : out + 1] if layer.depthwise else part
        found[out, y, x] = (part * layer.weights[out].astype(np.int64)).sum() + int(layer.bias[out])
    return found


def finish(layer: Conv | Pool, found: Sums, scale: Any) -> Int8:
    return arith.requantise(found.astype(np.int32), scale, layer.zero_point, layer.low, layer.high)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_convolution(seed: int, depthwise: bool) -> None:
    rng = np.random.default_rng(seed)
    layer, planes = random_conv(rng, depthwise)
    got = run_layers([layer], {"x": planes})["y"]
    np.testing.assert_array_equal(got, finish(layer, sums(layer, planes), layer.scale))
    assert got.dtype == np.int8


@pytest.mark.parametrize("depthwise", [False, True])
def test_sums_beyond_what_float32_holds_are_exact_and_wrap_as_int32(depthwise: bool) -> None:
    layer, planes = random_conv(np.random.default_rng(1), depthwise)
    bias = np.full(layer.bias.shape, 2**31 - 1000, np.int32)
    layer = replace(layer, bias=bias, scale=np.full(bias.shape, 3e-8, np.float32))
    got = run_layers([layer], {"x": planes})["y"]
    found = sums(layer, planes)
    assert found.max() >= 2**31  # some wrap
    np.testing.assert_array_equal(got, finish(layer, found, layer.scale))


@pytest.mark.parametrize(
    ("inputs", "weight", "bias", "dtype"),
    [
        (514, 255, 0, np.float32),
        (515, 255, 0, np.float64),
        (1032, 127, 0, np.float32),
        (1033, 127, 0, np.float64),
        (1, 1, 2**24 - 129, np.float32),
        (1, 1, -(2**24), np.float64),
    ],
)
def test_float32_serves_as_long_as_it_holds_every_sum(
    inputs: int, weight: int, bias: int, dtype: Any
) -> None:
    weights = np.full((1, inputs, 1, 1), -weight, np.int16)
    assert sum_dtype(weights, np.array([bias], np.int32)) == dtype


@pytest.mark.parametrize("maximum", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_pool(seed: int, maximum: bool) -> None:
    rng = np.random.default_rng(seed)
    layer = Pool(
        name="pool", input="x", output="y", maximum=maximum, kernel=(3, 2), stride=(2, 1),
        pads=tuple(rng.integers(0, 2, 4).tolist()), pad_value=-128, bias=0 if maximum else 700,
        scale=1.0 if maximum else 0.2, zero_point=0 if maximum else 5, low=-90, high=90, nodes=("pool",),
    )  # fmt: skip
    planes = rng.integers(-128, 128, (5, 7, 6)).astype(np.int8)
    data = padded(planes, layer.pads, layer.pad_value)
    parts = np.lib.stride_tricks.sliding_window_view(data, (3, 2), axis=(1, 2))[:, ::2]
    wanted = (
        np.clip(parts.max(axis=(3, 4)), -90, 90)
        if maximum
        else finish(layer, parts.sum(axis=(3, 4)) + 700, np.float32(0.2))
    )
    np.testing.assert_array_equal(run_layers([layer], {"x": planes})["y"], wanted)


def test_layers_feed_each_other_and_keep_nothing_from_run_to_run() -> None:
    rng = np.random.default_rng(4)
    conv, planes = random_conv(rng, depthwise=True)
    channels = planes.shape[0]
    conv = replace(conv, weights=rng.integers(-99, 99, (channels, 1, 3, 3)).astype(np.int16), stride=(1, 1),
                   pads=(1, 1, 1, 1), dilation=(1, 1))  # fmt: skip
    add = Add("add", "y", "x", "z", 1 << 15, 3 << 14, 1 << 16, 16, -128, 127, ("add",))
    layers = Layers([conv, add])
    seen = []
    for _ in range(3):
        x = rng.integers(-128, 128, planes.shape).astype(np.int8)
        found = layers.run({"x": x})
        np.testing.assert_array_equal(found["y"], finish(conv, sums(conv, x), conv.scale))
        np.testing.assert_array_equal(
            found["z"], arith.add(found["y"], x, 1 << 15, 3 << 14, 1 << 16, 16, -128, 127)
        )
        seen.append((x, found["z"].copy(), found["z"]))
    for x, copy, kept in seen:
        np.testing.assert_array_equal(copy, kept)  # a result is not written over by later runs
        np.testing.assert_array_equal(layers.run({"x": x})["z"], copy)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["INT8", "UINT8"])
def test_planes_and_back(layout: str, dtype: str) -> None:
    shape = (1, 3, 4, 5) if layout == "nchw" else (1, 4, 5, 3)
    tensor = Tensor("t", 3, 4, 5, 0, dtype, shape, layout)
    array = np.arange(60).reshape(shape).astype(dtype.lower())
    planes = to_planes(tensor, array)
    assert planes.dtype == np.int8
    assert planes.shape == (3, 4, 5)
    at = (0, 2, 1, 3) if layout == "nchw" else (0, 1, 3, 2)
    assert planes[2, 1, 3] == int(array[at]) - (128 if dtype == "UINT8" else 0)
    np.testing.assert_array_equal(from_planes(tensor, planes), array)
    assert from_planes(tensor, planes).dtype == array.dtype
