"""The overlay's arithmetic against exact fractions and against ONNX Runtime."""

from __future__ import annotations

import platform
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agent.overlay.arith import add, add_constants, requantise

avx2 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="ONNX Runtime's QLinearAdd rounds in its own way on each kind of processor; the overlay does as x86-64",
)
BYTES = np.arange(-128, 128).astype(np.int8)
bytes_ = st.integers(-128, 127)
ratios = st.integers(0, 2**24 - 1)


def run(node: onnx.NodeProto, feeds: dict[str, Any], dtype: type[np.generic]) -> Any:
    """The only output of a model that holds the one node, given its inputs."""
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    kind = TensorProto.UINT8 if dtype is np.uint8 else TensorProto.INT8
    output = helper.make_tensor_value_info(node.output[0], kind, None)
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, [output]), opset_imports=opsets, ir_version=8
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, arrays)[0]


def nearest_float32(value: Fraction) -> Fraction:
    """The float32 nearest to a fraction whose magnitude is that of a normal one, ties to even."""
    if not value:
        return value
    ulp = Fraction(2) ** (len(bin(abs(value.numerator))) - len(bin(value.denominator)) - 26)
    while abs(value) >= ulp * 2**24:
        ulp *= 2
    return round(value / ulp) * ulp


@given(
    acc=st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**12), 2**12),
    scale=st.floats(2.0**-40, 2.0**20, width=32) | st.sampled_from([0.5, 0.25, 1.0, 1 / 1024]),
    zero_point=bytes_,
    bounds=st.tuples(bytes_, bytes_).map(sorted),
)
def test_requantise_rounds_the_product_once_and_then_to_even(
    acc: int, scale: float, zero_point: int, bounds: list[int]
) -> None:
    product = nearest_float32(nearest_float32(Fraction(acc)) * Fraction(scale))
    expected = min(max(round(product) + zero_point, bounds[0]), bounds[1])
    assert requantise(np.array([acc], np.int32), np.float32(scale), zero_point, *bounds).tolist() == [
        expected
    ]


def test_requantise_takes_a_scale_for_each_channel_or_any_shape_that_broadcasts() -> None:
    acc = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    scale = np.array([1.0, 0.5], np.float32)
    channels = requantise(acc, scale, 1, -128, 127)
    assert channels[0].tolist() == (acc[0] + 1).tolist()
    assert channels[1].tolist() == (np.rint(acc[1] * 0.5) + 1).tolist()
    lanes = requantise(acc.transpose(1, 2, 0), scale[None, None], 1, -128, 127)
    assert lanes.transpose(2, 0, 1).tolist() == channels.tolist()


@given(
    ratio_a=ratios, ratio_b=ratios, offset=st.integers(-(2**39), 2**39 - 1), shift=st.integers(0, 31),
    pairs=st.lists(st.tuples(bytes_, bytes_), min_size=1, max_size=8), bounds=st.tuples(bytes_, bytes_).map(sorted),
)  # fmt: skip
def test_add_rounds_the_exact_sum_to_even(
    ratio_a: int, ratio_b: int, offset: int, shift: int, pairs: list[tuple[int, int]], bounds: list[int]
) -> None:
    a, b = np.array(pairs, np.int8).T
    exact = [round(Fraction(x * ratio_a + y * ratio_b + offset, 2**shift)) for x, y in pairs]
    expected = [min(max(value, bounds[0]), bounds[1]) for value in exact]
    assert add(a, b, ratio_a, ratio_b, offset, shift, *bounds).tolist() == expected


def test_a_tie_goes_to_the_even_neighbour() -> None:
    ties = np.array([-5, -3, -1, 1, 3, 5], np.int8)
    zeros = np.zeros(6, np.int8)
    assert add(ties, zeros, 1, 0, 0, 1, -128, 127).tolist() == [-2, -2, 0, 0, 2, 2]
    assert requantise(ties.astype(np.int32), 0.5, 0, -128, 127).tolist() == [-2, -2, 0, 0, 2, 2]


def runtime_add(dtype: Any, scales: Any, zero_points: list[int]) -> Any:
    """ONNX Runtime's QLinearAdd of every pair, as int8 [a, b]; ``zero_points`` are those of int8."""
    zero = 128 if dtype is np.uint8 else 0
    values = (np.arange(-128, 128) + zero).astype(dtype)
    names = ["a", "sa", "za", "b", "sb", "zb", "sc", "zc"]
    sa, sb, sc = (np.float32(scale) for scale in scales)
    za, zb, zc = (dtype(point + zero) for point in zero_points)
    feeds = dict(
        zip(names, [np.repeat(values, 256), sa, za, np.tile(values, 256), sb, zb, sc, zc], strict=True)
    )
    table = run(helper.make_node("QLinearAdd", names, ["c"], domain="com.microsoft"), feeds, dtype)
    return (table.astype(np.int16) - zero).astype(np.int8).reshape(256, 256)


@avx2
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_add_equals_onnx_runtime_for_every_pair(dtype: Any) -> None:
    random = np.random.default_rng(11)
    found = 0
    for _ in range(60):
        scale_c = np.exp(random.uniform(-5, 0.5))
        scales = [scale_c * factor for factor in np.exp(random.uniform(-2, 0.8, 2))] + [scale_c]
        zero_points = random.integers(-128, 128, 3).tolist()
        low = random.choice([-128, zero_points[2]])  # with and without a fused ReLU
        constants = add_constants(
            scales[0], zero_points[0], scales[1], zero_points[1], scales[2], zero_points[2],
            low, 127, unsigned=dtype is np.uint8,
        )  # fmt: skip
        if constants is None:
            continue
        found += 1
        expected = np.maximum(runtime_add(dtype, scales, zero_points), low)
        np.testing.assert_array_equal(add(BYTES[:, None], BYTES, *constants, low, 127), expected)
    assert found >= 55  # the others lie on ties that float32 breaks either way


scales = st.floats(2.0**-8, 2.0**2, width=32)


@settings(max_examples=60)
@given(
    scales=st.tuples(scales, scales, scales), points=st.tuples(bytes_, bytes_, bytes_), unsigned=st.booleans()
)
def test_constants_fit_in_the_descriptor(
    scales: tuple[float, float, float], points: tuple[int, int, int], unsigned: bool
) -> None:
    constants = add_constants(
        scales[0], points[0], scales[1], points[1], scales[2], points[2], -128, 127, unsigned=unsigned
    )
    if constants is not None:
        ratio_a, ratio_b, offset, shift = constants
        assert 0 <= ratio_a < 2**24 and 0 <= ratio_b < 2**24
        assert -(2**39) <= offset < 2**39 and 16 <= shift <= 24


@pytest.mark.parametrize("ratio", [2.0**-13, 2.0**7])
def test_scales_that_are_worlds_apart_have_no_constants(ratio: float) -> None:
    assert add_constants(ratio, 0, 1.0, 0, 1.0, 0, -128, 127) is None
    assert add_constants(1.0, 0, ratio, 0, 1.0, 0, -128, 127) is None


@avx2
def test_powers_of_two_always_have_constants_though_they_are_full_of_ties() -> None:
    for exponent in range(-4, 3):
        constants = add_constants(2.0**exponent, 3, 0.5, -7, 1.0, 11, -128, 127)
        assert constants is not None
        expected = runtime_add(np.int8, (2.0**exponent, 0.5, 1.0), [3, -7, 11])
        np.testing.assert_array_equal(add(BYTES[:, None], BYTES, *constants, -128, 127), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_requantise_equals_onnx_runtime_convolution(dtype: Any) -> None:
    random = np.random.default_rng(3)
    zero = 128 if dtype is np.uint8 else 0
    values = random.integers(-128, 128, (1, 48, 40, 40))
    # Seven bits, so that hosts whose 8-bit dot products saturate give the true sums as well.
    weights = random.integers(-63, 64, (32, 48, 1, 1)).astype(np.int8)
    in_scale, in_zero, out_scale, out_zero = np.float32(0.0237), -9, np.float32(0.6173), 17
    weight_scale = np.exp(random.uniform(-7, -3, 32)).astype(np.float32)
    bias = random.integers(-5000, 5000, 32).astype(np.int32)
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "bias"]
    feeds = dict(
        zip(
            names,
            [(values + zero).astype(dtype), in_scale, dtype(in_zero + zero), weights, weight_scale,
             np.zeros(32, np.int8), out_scale, dtype(out_zero + zero), bias],
            strict=True,
        )
    )  # fmt: skip
    result = run(helper.make_node("QLinearConv", names, ["y"]), feeds, dtype)[0].astype(np.int16) - zero
    sums = np.einsum("oi,ihw->ohw", weights[:, :, 0, 0].astype(np.int32), values[0] - in_zero)
    acc = (sums + bias[:, None, None]).astype(np.int32)
    mine = requantise(acc, in_scale * weight_scale / out_scale, out_zero, -128, 127)
    np.testing.assert_array_equal(mine, result)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_requantise_equals_onnx_runtime_global_average_pooling(dtype: Any) -> None:
    random = np.random.default_rng(4)
    zero = 128 if dtype is np.uint8 else 0
    values = random.integers(-128, 128, (1, 640, 7, 5))
    in_scale, in_zero, out_scale, out_zero = np.float32(0.0531), -31, np.float32(0.0119), 5
    names = ["x", "xs", "xz", "ys", "yz"]
    arrays = [
        (values + zero).astype(dtype),
        in_scale,
        dtype(in_zero + zero),
        out_scale,
        dtype(out_zero + zero),
    ]
    node = helper.make_node("QLinearGlobalAveragePool", names, ["y"], domain="com.microsoft", channels_last=0)
    result = run(node, dict(zip(names, arrays, strict=True)), dtype)[0, :, 0, 0].astype(np.int16) - zero
    acc = (values[0] - in_zero).sum(axis=(1, 2)).astype(np.int32)
    mine = requantise(acc, in_scale / (out_scale * np.float32(35)), out_zero, -128, 127)
    np.testing.assert_array_equal(mine, result)
