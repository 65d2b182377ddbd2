"""Random INT8 TFLite operators: the golden model gives LiteRT's bytes (those of its XNNPACK kernels on a CPU)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from agent.errors import UnsupportedModel
from agent.overlay.graph import Conv
from agent.overlay.importers.import_tflite import import_tflite
from tests.unit.overlay.onnx_nets import kinds
from tests.unit.overlay.tflite_nets import (
    ACTIVATIONS,
    Net,
    convolution,
    golden,
    interpreter,
    pool,
    runtime,
    steps_apart,
)

SEEDS = range(6)
FUSED = [*ACTIVATIONS, "", ""]


def size(length: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    extent = dilation * (kernel - 1) + 1
    return -(-length // stride) if padding == "SAME" else -(-(length - extent + 1) // stride)


def window(net: Net, kernel: tuple[int, int]) -> tuple[tuple[int, int], dict[str, Any]]:
    """Options of a convolution of 11 x 9 pixels, and its output's size."""
    stride, dilation = net.rng.integers(1, 4, 2).tolist(), [1, 1]
    if stride == [1, 1]:
        dilation = net.rng.integers(1, 3, 2).tolist()
    padding, activation = str(net.rng.choice(["SAME", "VALID"])), str(net.rng.choice(FUSED))
    rows, columns = (size(*each, padding) for each in zip((11, 9), kernel, stride, dilation, strict=True))
    options = {"stride": stride, "dilation": dilation, "padding": padding, "activation": activation}
    return (rows, columns), options


@pytest.mark.parametrize("seed", range(12))
def test_convolution(seed: int) -> None:
    net = Net(seed)
    (channels, outputs), (height, width) = (
        net.rng.integers(1, 7, 2).tolist(),
        net.rng.integers(1, 4, 2).tolist(),
    )
    pixels, options = window(net, (height, width))
    y = convolution(
        net,
        net.input([1, 11, 9, channels]),
        (outputs, height, width, channels),
        (1, *pixels, outputs),
        **options,
    )
    graph, apart = steps_apart(net.model(y), net.rng)
    assert (kinds(graph), apart) == (["Conv"], 0)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_depthwise_convolution(seed: int, multiplier: int) -> None:
    net = Net(seed)
    pixels, options = window(net, (3, 3))
    shape, output = (1, 3, 3, 5 * multiplier), (1, *pixels, 5 * multiplier)
    y = convolution(net, net.input([1, 11, 9, 5]), shape, output, multiplier=multiplier, **options)
    graph, apart = steps_apart(net.model(y), net.rng)
    (layer,) = graph.steps
    assert isinstance(layer, Conv)
    assert (layer.depthwise, apart) == (multiplier == 1, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_padding_is_folded_into_the_convolution(seed: int) -> None:
    net = Net(seed)
    x = net.input([1, 8, 7, 3])
    pads = np.array([[0, 0], net.rng.integers(0, 3, 2), net.rng.integers(0, 3, 2), [0, 0]], np.int32)
    height, width = 8 + int(pads[1].sum()), 7 + int(pads[2].sum())
    steps = (net.scale(x), int(net._tensors[x].quantization.zeroPoint[0]))
    padded = net.operator("PAD", [x, net.constant(pads)], net.tensor([1, height, width, 3], steps))
    y = convolution(net, padded, (4, 3, 3, 3), (1, height - 2, width - 2, 4))
    graph, apart = steps_apart(net.model(y), net.rng)
    assert (kinds(graph), apart) == (["Conv"], 0)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_fully_connected(seed: int, rows: int) -> None:
    net = Net(seed)
    x = net.input([rows, 30])
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = ACTIVATIONS[str(net.rng.choice(FUSED))]
    scale, values = 0.004, net.rng.integers(-127, 128, (8, 30)).astype(np.int8)
    bias = net.constant(net.rng.integers(-900, 900, 8).astype(np.int32), [scale * net.scale(x)])
    y = net.operator(
        "FULLY_CONNECTED",
        [x, net.constant(values, [scale]), bias],
        net.tensor([rows, 8], net.steps()),
        options,
    )
    graph, apart = steps_apart(net.model(y), net.rng)
    assert (kinds(graph), apart) == (["Conv"], 0)


@pytest.mark.parametrize("seed", range(12))
def test_addition(seed: int) -> None:
    net = Net(seed)
    inputs = [net.input([1, 10, 9, 8]) for _ in range(2)]
    options = schema.AddOptionsT()
    options.fusedActivationFunction = ACTIVATIONS[str(net.rng.choice(FUSED))]
    y = net.operator("ADD", inputs, net.tensor([1, 10, 9, 8], net.steps()), options)
    graph, apart = steps_apart(net.model(y), net.rng)
    assert (kinds(graph), apart) == (["Add"], 0)


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (5, 4), (8, 8)])
def test_average(kernel: tuple[int, int]) -> None:
    net = Net(sum(kernel))
    steps = net.steps()
    y = pool(net, "AVERAGE_POOL_2D", net.input([1, 8, 8, 16], steps), kernel, net.tensor(
        [1, 8 // kernel[0], 8 // kernel[1], 16], steps))  # fmt: skip
    graph, apart = steps_apart(net.model(y), net.rng, runs=20)
    assert (kinds(graph), apart) == (["Pool"], 0)


def test_an_average_over_padded_windows_is_foreign() -> None:
    net = Net(1)
    steps = net.steps()
    y = pool(net, "AVERAGE_POOL_2D", net.input([1, 8, 8, 4], steps), (3, 3), net.tensor([1, 8, 8, 4], steps),
             stride=(1, 1), padding="SAME")  # fmt: skip
    graph, apart = steps_apart(net.model(y), net.rng)
    assert (kinds(graph), apart) == (["Foreign"], 0)
    assert graph.steps[0].why == "AVERAGE_POOL_2D 't1': an average over a padded window has no one divisor"  # type: ignore[union-attr]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_maximum(padding: str) -> None:
    net = Net(2)
    steps = net.steps()
    pixels = [size(8, 3, 2, 1, padding), size(7, 3, 2, 1, padding)]
    y = pool(net, "MAX_POOL_2D", net.input([1, 8, 7, 4], steps), (3, 3), net.tensor([1, *pixels, 4], steps),
             stride=(2, 2), padding=padding, activation="RELU")  # fmt: skip
    graph, apart = steps_apart(net.model(y), net.rng)
    assert (kinds(graph), apart) == (["Pool"], 0)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_mean_over_all_pixels(seed: int, keep: bool) -> None:
    net = Net(seed)
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    x = net.input([1, 7, 6, 20])
    y = net.operator(
        "MEAN", [x, net.constant(np.array([1, 2], np.int32))],
        net.tensor([1, 1, 1, 20] if keep else [1, 20], net.steps()), options,
    )  # fmt: skip
    graph, apart = steps_apart(net.model(y), net.rng, runs=10)
    assert (kinds(graph), apart) == (["Pool"], 0)


def test_real_numbers_at_both_ends_and_views_between() -> None:
    net = Net(3)
    x = net.input([1, 6, 6, 2], None, "FLOAT32")
    steps = net.steps()
    quantised = net.operator("QUANTIZE", [x], net.tensor([1, 6, 6, 2], steps))
    y = convolution(net, quantised, (3, 3, 3, 2), (1, 4, 4, 3))
    shape = net.constant(np.array([1, 48], np.int32))
    out = (net.scale(y), int(net._tensors[y].quantization.zeroPoint[0]))
    flat = net.operator("RESHAPE", [y, shape], net.tensor([1, 48], out))
    values = net.rng.integers(-127, 128, (5, 48)).astype(np.int8)
    y = net.operator(
        "FULLY_CONNECTED", [flat, net.constant(values, [0.005])], net.tensor([1, 5], net.steps()),
        schema.FullyConnectedOptionsT(),
    )  # fmt: skip
    real = net.operator("DEQUANTIZE", [y], net.tensor([1, 5], None, "FLOAT32"))
    graph, apart = steps_apart(net.model(y, real), net.rng)
    assert (kinds(graph), apart) == (["quantize", "Conv", "Conv", "dequantize"], 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_softmax_is_a_host_operator(seed: int) -> None:
    net = Net(seed)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    y = net.operator("SOFTMAX", [net.input([1, 12])], net.tensor([1, 12], (1 / 256, -128)), options)
    graph, apart = steps_apart(net.model(y), net.rng, runs=20)
    assert kinds(graph) == ["softmax_int8"]
    assert apart <= 1


def test_what_the_overlay_lacks_is_foreign_and_agrees() -> None:
    net = Net(4)
    y = convolution(net, net.input([1, 8, 8, 3]), (4, 3, 3, 3), (1, 6, 6, 4))
    y = net.operator("LOGISTIC", [y], net.tensor([1, 6, 6, 4], (1 / 256, -128)))
    y = convolution(net, y, (2, 3, 3, 4), (1, 4, 4, 2))
    graph, apart = steps_apart(net.model(y), net.rng)
    assert (kinds(graph), apart) == (["Conv", "Foreign", "Conv"], 0)
    assert graph.steps[1].why == "LOGISTIC 't4': the overlay has no such operator"  # type: ignore[union-attr]


def test_a_float_model_says_what_to_do() -> None:
    net = Net(5)
    x = net.input([1, 4, 4, 3], None, "FLOAT32")
    y = pool(net, "MAX_POOL_2D", x, (2, 2), net.tensor([1, 2, 2, 3], None, "FLOAT32"))
    data = net.model(y)
    interpreter(data)  # it is a model all the same
    with pytest.raises(UnsupportedModel, match=r"MAX_POOL_2D .*computes in FP32.*full integer quantisation"):
        import_tflite(data, "float")


@pytest.mark.parametrize("seed", SEEDS)
def test_halves_are_quantised_as_litert_quantises_them(seed: int) -> None:
    net = Net(seed)
    steps = net.steps(0.001, 0.5)
    ties = (np.arange(-300, 300) + 0.5).astype(np.float32) * np.float32(steps[0])
    near = [np.nextafter(ties, np.float32(each), dtype=np.float32) for each in (np.inf, -np.inf)]
    values = np.concatenate([ties, *near])[None]
    x = net.input(values.shape, None, "FLOAT32")
    data = net.model(net.operator("QUANTIZE", [x], net.tensor(values.shape, steps)))
    graph = import_tflite(data, "quantize")
    assert kinds(graph) == ["quantize"]
    (wanted,) = runtime(interpreter(data), {"t0": values}).values()
    np.testing.assert_array_equal(golden(data, graph, {"t0": values})["t1"], wanted)
