"""Weights as the overlay reads them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agent.overlay.lower.build import build
from agent.overlay.lower.weights import dilated, packed_passes, split_bytes
from agent.overlay.spec import Overlay
from tests.unit.overlay.handmade import conv, conv_stream, depthwise_stream, tensor
from tests.unit.overlay.plans import NPU, SMALL


@given(arrays.arrays(np.int16, (3, 4), elements=st.integers(-255, 255)))
def test_bytes_that_sum_up(weights: np.ndarray) -> None:
    parts = split_bytes(weights)
    np.testing.assert_array_equal(sum(part.astype(int) for part in parts), weights)
    assert all(part.dtype == np.int8 for part in parts)
    assert len(parts) <= 3
    if -128 <= int(weights.min()) <= int(weights.max()) <= 127:
        assert len(parts) == 1


@pytest.mark.parametrize("spec", [NPU, SMALL], ids=lambda spec: spec.id)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 2)])
def test_planes(spec: Overlay, kernel: tuple[int, int]) -> None:
    source = tensor("x", 21, 9, 8)
    layer, target = conv(1, source, 35, kernel)
    work = build(spec, [layer], {"x": source, "y": target}, frozenset({"y"}))
    assert work.ops[0].weights() == conv_stream(spec, layer)


@pytest.mark.parametrize("spec", [NPU, SMALL], ids=lambda spec: spec.id)
def test_depthwise(spec: Overlay) -> None:
    source = tensor("x", 21, 9, 8)
    layer, target = conv(1, source, 21, (3, 3), depthwise=True)
    work = build(spec, [layer], {"x": source, "y": target}, frozenset({"y"}))
    assert work.ops[0].weights() == depthwise_stream(spec, layer)


@pytest.mark.parametrize("spec", [NPU, SMALL], ids=lambda spec: spec.id)
def test_large_depthwise_kernels_are_windows_of_three(spec: Overlay) -> None:
    source = tensor("x", 5, 9, 8)
    layer, target = conv(1, source, 5, (5, 4), depthwise=True)
    op = build(spec, [layer], {"x": source, "y": target}, frozenset({"y"})).ops[0]
    rows = spec.parameter_rows + spec.depthwise_rows
    assert op.parts == (rows,) * 4
    parts = np.frombuffer(op.weights(), np.int8).reshape(4, rows * spec.row_bytes)
    taps = parts[:, spec.parameter_rows * spec.row_bytes :].reshape(4, 10, spec.lanes)[:, :9, :5]
    whole = np.zeros((6, 6, 5), np.int8)
    whole[:5, :4] = layer.weights[:, 0].transpose(1, 2, 0)
    for window in range(4):
        y, x = window // 2 * 3, window % 2 * 3
        np.testing.assert_array_equal(taps[window].reshape(3, 3, 5), whole[y : y + 3, x : x + 3])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("lanes", [8, 16])
def test_packed_windows_multiply_the_right_bytes(channels: int, lanes: int) -> None:
    rng = np.random.default_rng(channels)
    out, kh, kw, stack, pixels = 3, 5, 4, 4 // channels, lanes // 4
    weights = rng.integers(-100, 100, (out, channels, kh, kw)).astype(np.int16)
    passes = packed_passes(weights, stack, lanes)
    rows, columns = passes.shape[1] * stack + stack, passes.shape[2] * pixels
    image = np.zeros((channels, rows, columns), int)
    image[:, :kh, :kw] = rng.integers(-100, 100, (channels, kh, kw))
    quads = np.zeros((rows, columns, 4), int)  # byte row x channels + channel
    for row in range(stack):
        quads[: rows - row, :, row * channels : (row + 1) * channels] = image[:, row:].transpose(1, 2, 0)
    total = np.zeros(lanes, int)
    for b in range(passes.shape[1]):
        for c in range(passes.shape[2]):
            window = quads[b * stack, c * pixels : (c + 1) * pixels].reshape(lanes)
            total += passes[0, b, c, 0].astype(int) @ window
    wanted = np.einsum("oiyx,iyx->o", weights.astype(int), image[:, :kh, :kw])
    assert total[:out].tolist() == wanted.tolist()
    assert not passes[0, :, :, :, out:].any()


def test_dilated_kernels_have_zeros() -> None:
    weights = np.arange(1, 7, dtype=np.int16).reshape(1, 1, 2, 3)
    wide = dilated(weights, (3, 2))
    assert wide.shape == (1, 1, 4, 5)
    assert wide[0, 0, 0].tolist() == [1, 0, 2, 0, 3]
    assert not wide[0, 0, 1:3].any()


def test_lanes_without_a_channel_have_scale_one() -> None:
    source = tensor("x", 3, 4, 4)
    layer, target = conv(1, source, 5, (1, 1))
    layer = replace(layer, scale=np.full(5, 0.25, np.float32))
    data = build(NPU, [layer], {"x": source, "y": target}, frozenset({"y"})).ops[0].weights()
    scales = np.frombuffer(data[64:128], "<f4")
    assert scales.tolist() == [0.25] * 5 + [1.0] * 11
