"""INT8 by the rules of who runs it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from agent.fleet.prepare.calibrating import METHODS, Ranges, calibrate
from agent.fleet.prepare.dataset import random_dataset
from agent.fleet.prepare.quantising import layers_of, quantise, quantise_alone
from agent.fleet.prepare.simplify import simplify
from agent.fleet.prepare.values import Dataset, Rules, no_progress
from agent.types import TensorSpec
from tests.unit.fleet.prepare.nets import SIZE, convolutional, model, pictures, runtime

INPUTS = (TensorSpec("x", "FP32", (-1, 2, SIZE, SIZE)),)
MODEL = simplify(convolutional().SerializeToString())


def ranges(source: bytes = MODEL, method: str = "minmax") -> Ranges:
    data = Dataset({"x": pictures(40)[:, None]}, None, "numbers")
    return calibrate(source, INPUTS, data, method, no_progress)


def weights(made: bytes) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int8]]]:
    graph = onnx.load_model_from_string(made).graph
    found = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return {name: array for name, array in found.items() if array.dtype == np.int8 and array.ndim > 1}


def kinds(made: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(made).graph.node]


@pytest.mark.parametrize(("rules", "largest"), [("cpu", 64), ("npu", 127)])
def test_weights_have_the_bits_that_the_sums_have_room_for(rules: Rules, largest: int) -> None:
    arrays = weights(quantise(MODEL, ranges(), rules))
    assert len(arrays) == 3
    assert max(int(np.abs(array).max()) for array in arrays.values()) == largest


def test_weights_have_a_scale_for_each_channel() -> None:
    graph = onnx.load_model_from_string(quantise(MODEL, ranges(), "cpu")).graph
    scales = [numpy_helper.to_array(each) for each in graph.initializer if each.name == "w1_scale"]
    assert [array.shape for array in scales] == [(16,)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("qlinear", [False, True])
def test_the_answers_are_near_the_float_ones(method: str, qlinear: bool) -> None:
    x = pictures(20, seed=9)
    want = runtime(MODEL, x)
    got = runtime(quantise(MODEL, ranges(method=method), "cpu", qlinear=qlinear), x)
    assert float(np.abs(got - want).max()) < 0.06 * float(np.abs(want).max())


def test_both_forms() -> None:
    qdq, qlinear = (quantise(MODEL, ranges(), "cpu", qlinear=each) for each in (False, True))
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= set(kinds(qdq))
    assert {"QLinearConv", "QGemm", "QLinearGlobalAveragePool"} <= set(kinds(qlinear))


def test_layers_in_float_stay_as_they_are() -> None:
    made = onnx.load_model_from_string(quantise(MODEL, ranges(), "cpu", ["first"]))
    first = next(node for node in made.graph.node if node.name == "first")
    assert list(first.input) == ["x", "w0", "b0"]
    assert [list(node.input) for node in made.graph.node if node.op_type == "Relu"] == [["c0"]]


def test_one_layer_alone() -> None:
    arrays = weights(quantise_alone(MODEL, ranges(), "npu", "second"))
    assert [array.shape for array in arrays.values()] == [(16, 8, 3, 3)]


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("qlinear", [False, True])
def test_a_relu_of_what_others_read_as_well_cuts_nothing_off_for_them(shown: bool, qlinear: bool) -> None:
    """As before a residual sum: or, when ``shown``, of an output of the model."""
    eye = (np.eye(3) - 0.5).astype(np.float32)[:, :, None, None]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "v"], ["d"], name="next"),
        helper.make_node("Identity" if shown else "Add", ["d"] if shown else ["c", "d"], ["y"], name="sum"),
    ]
    net = model(nodes, {"w": eye[:, :2], "v": eye}, output=("N", 3, SIZE, SIZE))
    if shown:
        net.graph.output.insert(0, helper.make_tensor_value_info("c", 1, ("N", 3, SIZE, SIZE)))
    source, x = simplify(net.SerializeToString()), pictures(20, seed=9)
    want = runtime(source, x)
    got = runtime(quantise(source, ranges(source), "cpu", qlinear=qlinear), x)
    assert want.min() < 0
    assert float(np.abs(got - want).max()) < 0.06 * float(np.abs(want).max())


def sigmoids() -> ModelProto:
    """A convolution between operators that the overlay does not run."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], name="before"),
        helper.make_node("Conv", ["s", "w"], ["c"], name="layer"),
        helper.make_node("Sigmoid", ["c"], ["y"], name="after"),
    ]
    w = np.random.default_rng(0).standard_normal((2, 2, 1, 1)).astype(np.float32)
    return model(nodes, {"w": w}, output=("N", 2, SIZE, SIZE))


def test_what_an_overlay_does_not_run_stays_in_float_for_it() -> None:
    source = simplify(sigmoids().SerializeToString())
    found = ranges(source)
    assert "QLinearSigmoid" in kinds(quantise(source, found, "cpu", qlinear=True))
    assert kinds(quantise(source, found, "npu")).count("Sigmoid") == 2
    assert "QLinearSigmoid" not in kinds(quantise(source, found, "npu", qlinear=True))
    assert [layer.name for layer in layers_of(source, "npu")] == ["layer"]


def test_layers_are_what_computes() -> None:
    found = {layer.name: (layer.operator, layer.parameters) for layer in layers_of(MODEL, "npu")}
    assert found == {
        "first": ("Conv", 8 * 2 * 9 + 8),
        "second": ("Conv", 16 * 8 * 9 + 16),
        "mean": ("GlobalAveragePool", 0),
        "head": ("Gemm", 3 * 16 + 3),
    }


def test_calibration_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(MODEL, INPUTS, random_dataset(INPUTS, 33), "entropy", no_progress)
    assert capsys.readouterr().out == ""
