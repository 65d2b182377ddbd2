"""Float TFLite models as ONNX: the numbers of LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from agent.errors import UnsupportedOperator, WeightsNotFinite
from agent.fleet.prepare.prepare import load
from agent.fleet.prepare.values import Source
from tests.system import mlperf
from tests.unit.fleet.prepare.nets import runtime
from tests.unit.overlay.tflite_nets import ACTIVATIONS, Net, interpreter, pool, random_inputs
from tests.unit.overlay.tflite_nets import runtime as litert

FLOAT = "FLOAT32"


class Floats(Net):
    """A float model that is put together operator by operator."""

    def numbers(self, *shape: int) -> int:
        return self.constant(self.rng.standard_normal(shape).astype(np.float32))

    def made(self, shape: Any) -> int:
        return self.tensor(shape, None, FLOAT)


def loaded(path: Path, data: bytes) -> Source:
    (path / "net.tflite").write_bytes(data)
    return load(path / "net.tflite")


def check(path: Path, net: Floats, *outputs: int) -> Source:
    """The ONNX graph answers as LiteRT does."""
    data = net.model(*outputs)
    source, made = loaded(path, data), interpreter(data)
    inputs = random_inputs(made, np.random.default_rng(5))
    want = litert(made, inputs)
    session_input = next(iter(inputs.values()))
    got = runtime(source.model, session_input)
    np.testing.assert_allclose(got, want[source.outputs[0].name], atol=2e-5, rtol=1e-4)
    return source


def convolve(
    net: Floats,
    x: int,
    shape: tuple[int, ...],
    output: tuple[int, ...],
    *,
    multiplier: int = 0,
    **options: Any,
) -> int:
    made = schema.DepthwiseConv2DOptionsT() if multiplier else schema.Conv2DOptionsT()
    if multiplier:
        made.depthMultiplier = multiplier
    made.strideH, made.strideW = options.get("stride", (1, 1))
    made.dilationHFactor, made.dilationWFactor = options.get("dilation", (1, 1))
    made.padding = getattr(schema.Padding, options.get("padding", "VALID"))
    made.fusedActivationFunction = ACTIVATIONS[options.get("activation", "")]
    bias = net.numbers(shape[3] if multiplier else shape[0])
    kind = "DEPTHWISE_CONV_2D" if multiplier else "CONV_2D"
    return net.operator(kind, [x, net.numbers(*shape), bias], net.made(output), made)


@pytest.mark.parametrize("activation", ["", "RELU", "RELU6", "RELU_N1_TO_1"])
@pytest.mark.parametrize(
    ("stride", "padding", "size"),
    [((1, 1), "SAME", (7, 5)), ((2, 2), "SAME", (4, 3)), ((2, 1), "VALID", (3, 3))],
)
def test_convolutions(tmp_path: Path, activation: str, stride: Any, padding: str, size: Any) -> None:
    net = Floats(1)
    x = net.input((1, 7, 5, 3), dtype=FLOAT)
    y = convolve(net, x, (4, 3, 3, 3), (1, *size, 4), stride=stride, padding=padding, activation=activation)
    check(tmp_path, net, y)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolutions(tmp_path: Path, multiplier: int) -> None:
    net = Floats(2)
    x = net.input((1, 6, 6, 4), dtype=FLOAT)
    channels = 4 * multiplier
    y = convolve(
        net, x, (1, 3, 3, channels), (1, 3, 3, channels), multiplier=multiplier, stride=(2, 2), padding="SAME"
    )
    check(tmp_path, net, y)


def test_a_dilated_convolution(tmp_path: Path) -> None:
    net = Floats(3)
    x = net.input((1, 9, 9, 2), dtype=FLOAT)
    check(tmp_path, net, convolve(net, x, (3, 3, 3, 2), (1, 5, 5, 3), dilation=(2, 2)))


@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_pools(tmp_path: Path, kind: str, padding: str) -> None:
    net = Floats(4)
    x = net.input((1, 7, 7, 3), dtype=FLOAT)
    size = 4 if padding == "SAME" else 3
    check(tmp_path, net, pool(net, kind, x, (2, 2), net.made((1, size, size, 3)), padding=padding))


def residual(net: Floats) -> int:
    """Two branches that meet, their mean, a matrix and softmax: every way in which orders of axes meet."""
    x = net.input((1, 6, 6, 3), dtype=FLOAT)
    a = convolve(net, x, (5, 3, 3, 3), (1, 6, 6, 5), padding="SAME", activation="RELU")
    b = convolve(net, x, (5, 1, 1, 3), (1, 6, 6, 5))
    options = schema.AddOptionsT()
    options.fusedActivationFunction = ACTIVATIONS["RELU"]
    added = net.operator("ADD", [a, b], net.made((1, 6, 6, 5)), options)
    pooled = pool(net, "AVERAGE_POOL_2D", added, (6, 6), net.made((1, 1, 1, 5)))
    rows = net.operator("RESHAPE", [pooled, net.constant(np.array([-1, 5], np.int32))], net.made((1, 5)))
    dense = schema.FullyConnectedOptionsT()
    logits = net.operator(
        "FULLY_CONNECTED", [rows, net.numbers(4, 5), net.numbers(4)], net.made((1, 4)), dense
    )
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 0.5
    return net.operator("SOFTMAX", [logits], net.made((1, 4)), softmax)


def test_a_residual_net_turns_only_its_input(tmp_path: Path) -> None:
    net = Floats(5)
    source = check(tmp_path, net, residual(net))
    kinds = [node.op_type for node in onnx.load_model_from_string(source.model).graph.node]
    assert kinds.count("Transpose") == 1
    assert "GlobalAveragePool" in kinds


def test_a_reshape_of_a_picture_keeps_its_order(tmp_path: Path) -> None:
    net = Floats(6)
    x = net.input((1, 4, 4, 2), dtype=FLOAT)
    y = convolve(net, x, (3, 1, 1, 2), (1, 4, 4, 3))
    rows = net.operator("RESHAPE", [y, net.constant(np.array([1, 48], np.int32))], net.made((1, 48)))
    check(tmp_path, net, rows)


def test_a_mean_over_the_pixels(tmp_path: Path) -> None:
    net = Floats(7)
    x = net.input((1, 4, 4, 2), dtype=FLOAT)
    axes = net.constant(np.array([1, 2], np.int32))
    check(tmp_path, net, net.operator("MEAN", [x, axes], net.made((1, 2)), schema.ReducerOptionsT()))


def test_zeros_around_a_picture(tmp_path: Path) -> None:
    net = Floats(8)
    x = net.input((1, 4, 4, 2), dtype=FLOAT)
    pads = net.constant(np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32))
    padded = net.operator("PAD", [x, pads], net.made((1, 7, 5, 2)), schema.PadOptionsT())
    check(tmp_path, net, convolve(net, padded, (3, 3, 3, 2), (1, 5, 3, 3)))


def test_what_is_not_converted_is_named(tmp_path: Path) -> None:
    net = Floats(9)
    x = net.input((1, 4), dtype=FLOAT)
    data = net.model(net.operator("LOGISTIC", [x], net.made((1, 4))))
    with pytest.raises(UnsupportedOperator, match=r"LOGISTIC \(which writes 't1'\)"):
        loaded(tmp_path, data)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    net = Floats(10)
    x = net.input((1, 2), dtype=FLOAT)
    weights = net.constant(np.array([[1, np.nan]], np.float32))
    dense = schema.FullyConnectedOptionsT()
    data = net.model(net.operator("FULLY_CONNECTED", [x, weights], net.made((1, 1)), dense))
    with pytest.raises(WeightsNotFinite, match="'t1'"):
        loaded(tmp_path, data)


@pytest.mark.skipif(mlperf.reason_to_skip() is not None, reason=str(mlperf.reason_to_skip()))
@pytest.mark.parametrize(
    ("name", "tolerance"), [("resnet8", 1e-5), ("dscnn", 0.1), ("vww", 1e-5), ("autoencoder", 1e-2)]
)
def test_mlperf_tiny(name: str, tolerance: float) -> None:
    """DS-CNN's weights are INT8: LiteRT quantises activations as it goes, the ONNX graph does not."""
    reference = mlperf.Reference(mlperf.MODELS[name])
    source = load(reference.path)
    rng = np.random.default_rng(0)
    inputs: list[NDArray[Any]] = mlperf.real_inputs(name) or [reference.random_input(rng) for _ in range(3)]
    for x in inputs:
        np.testing.assert_allclose(runtime(source.model, x), reference.run(x), atol=tolerance)
