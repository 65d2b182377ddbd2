"""Host operators, alone: against ONNX Runtime where they come from ONNX, against their definition elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from agent.errors import ProgramError
from agent.overlay.graph import Host
from agent.overlay.host import run_host
from tests.unit.overlay.onnx_nets import Array, runtime


def run(op: str, attributes: dict[str, Any], *inputs: Array) -> Array:
    return run_host(Host(op, ("x",), ("y",), attributes, ()), inputs)[0]


def onnx_node(op: str, x: Array, constants: list[Array], **attributes: Any) -> Array:
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    names = [f"c{index}" for index in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        op,
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for array, name in zip(constants, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return runtime(model.SerializeToString(), {"x": x})["y"]


def awkward(rng: np.random.Generator, scale: float) -> Array:
    """Ties, numbers beside them, far ones, infinities and zeros."""
    ties = (np.arange(-300, 300) + 0.5) * np.float32(scale)
    near = [np.nextafter(ties, np.float32(sign * np.inf), dtype=np.float32) for sign in (-1, 1)]
    far = np.array([1e30, -1e30, np.inf, -np.inf, 0.0, -0.0, 1e-40], np.float32)
    return np.concatenate([ties, *near, far, rng.standard_normal(500) * 20]).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("seed", range(6))
def test_quantize_and_back(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    scale, zero_point = np.float32(rng.uniform(0.001, 0.5)), int(rng.integers(info.min, info.max + 1))
    x = awkward(rng, float(scale))
    attributes = {"scale": (float(scale),), "zero_point": (zero_point,), "axis": 1}
    constants = [np.asarray(scale), np.asarray(zero_point, dtype)]
    quantised = run("quantize", attributes | {"dtype": np.dtype(dtype).name.upper()}, x)
    np.testing.assert_array_equal(quantised, onnx_node("QuantizeLinear", x, constants))
    real = run("dequantize", attributes, quantised)
    np.testing.assert_array_equal(real, onnx_node("DequantizeLinear", quantised, constants))


def test_scales_along_an_axis() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    scales, zero_points = rng.uniform(0.01, 0.1, 3).astype(np.float32), np.array([0, 5, -7], np.int8)
    attributes = {"scale": tuple(scales.tolist()), "zero_point": tuple(zero_points.tolist()), "axis": 1}
    got = run("quantize", attributes | {"dtype": "INT8"}, x)
    np.testing.assert_array_equal(got, onnx_node("QuantizeLinear", x, [scales, zero_points], axis=1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    x = (np.random.default_rng(2).standard_normal((3, 5, 7)) * 30).astype(np.float32)
    np.testing.assert_allclose(
        run("softmax", {"axis": axis}, x), onnx_node("Softmax", x, [], axis=axis), atol=1e-6
    )


def test_softmax_of_tflite_sums_to_one_but_for_rounding() -> None:
    x = np.array([[-128, 0, 127], [5, 5, 5]], np.int8)
    got = run("softmax_int8", {"scale": 0.1, "beta": 1.0}, x)
    assert got.tolist() == [[-128, -128, 127], [-43, -43, -43]]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_argmax(last: bool, keep: bool) -> None:
    x = np.array([[1, 3, 3, 2], [0, 0, 0, 0]], np.int8)
    attributes = {"axis": 1, "keepdims": keep, "last": last, "dtype": "INT64"}
    wanted = onnx_node("ArgMax", x, [], axis=1, keepdims=int(keep), select_last_index=int(last))
    got = run("argmax", attributes, x)
    np.testing.assert_array_equal(got, wanted)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)


def test_shapes_and_types() -> None:
    x = np.arange(6, dtype=np.int8).reshape(2, 3)
    assert run("reshape", {"shape": (3, 2)}, x).tolist() == [[0, 1], [2, 3], [4, 5]]
    turned = run("transpose", {"perm": (1, 0)}, x)
    assert turned.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert turned.flags.c_contiguous
    assert run("cast", {"dtype": "FP32"}, x).dtype == np.float32


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ProgramError, match="'resize' is unknown here; update overlaid"):
        run("resize", {}, np.zeros(1))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("reshape", {"shape": (7,)}),
        ("reshape", {}),
        ("transpose", {"perm": (0, 0)}),
        ("softmax", {"axis": 9}),
        ("quantize", {"scale": (1.0, 2.0), "zero_point": (0,), "axis": 4, "dtype": "INT8"}),
        ("cast", {"dtype": "FP8"}),
    ],
)
def test_attributes_that_do_not_fit(op: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(ProgramError, match=r"cannot run.*compile the model again"):
        run(op, attributes, np.zeros((2, 3), np.float32))
