"""Random quantised operators: the golden model gives ONNX Runtime's bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.overlay.graph import Conv, Pool
from tests.unit.overlay.onnx_nets import MICROSOFT, Net, agree, kinds

SEEDS = range(8)


def qlinear_conv(
    net: Net, x: str, channels: int, size: tuple[int, ...], groups: int = 1, **attributes: Any
) -> str:
    """A convolution of ``channels`` inputs, ``size``: outputs and kernel."""
    rng = net.rng
    dtype = np.uint8 if net.dtype == np.uint8 and rng.random() < 0.4 else np.int8
    outputs, *kernel = size
    weights = net.weights((outputs, channels // groups, *kernel), dtype)
    scales = np.asarray(rng.uniform(0.001, 0.02, outputs if rng.random() < 0.6 else ()), np.float32)
    zero_points = np.full(scales.shape, rng.integers(0, 256) if dtype == np.uint8 else 0, dtype)
    bias = [net.constant(np.asarray(rng.integers(-2000, 2000, outputs), np.int32))]
    return net.node(
        "QLinearConv",
        [
            x,
            *net.steps(),
            *map(net.constant, (weights, scales, zero_points)),
            *net.steps(),
            *bias[: rng.integers(2)],
        ],
        kernel_shape=kernel,
        group=groups,
        **attributes,
    )


def window(net: Net) -> dict[str, Any]:
    """Random strides, dilations and padding."""
    rng = net.rng
    strides, dilations = rng.integers(1, 4, 2).tolist(), rng.integers(1, 3, 2).tolist()
    kind = rng.choice(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if kind == "pads":
        return {"strides": strides, "dilations": dilations, "pads": rng.integers(0, 3, 4).tolist()}
    if kind == "none":
        return {"strides": strides, "dilations": dilations}
    return {"strides": strides, "auto_pad": str(kind)}


@pytest.mark.parametrize("seed", range(30))
def test_convolution(seed: int) -> None:
    net = Net(seed, unsigned=bool(seed % 2))
    rng = net.rng
    channels, outputs = rng.integers(1, 6, 2).tolist()
    kernel = rng.integers(1, 4, 2).tolist()
    x = net.input([1, channels, *rng.integers(5, 12, 2).tolist()])
    graph = agree(net.model(qlinear_conv(net, x, channels, (outputs, *kernel), **window(net))), rng)
    assert kinds(graph) == ["Conv"]


@pytest.mark.parametrize("seed", SEEDS)
def test_depthwise_convolution_stays_depthwise(seed: int) -> None:
    net = Net(seed, unsigned=bool(seed % 2))
    x = net.input([1, 6, 9, 7])
    y = qlinear_conv(net, x, 6, (6, 3, 3), 6, **window(net))
    (layer,) = agree(net.model(y), net.rng).steps
    assert isinstance(layer, Conv)
    assert layer.depthwise
    assert layer.weights.shape == (6, 1, 3, 3)


@pytest.mark.parametrize(("groups", "outputs"), [(2, 4), (3, 6), (6, 12)])
def test_other_groups_become_dense_and_count_their_own_macs(groups: int, outputs: int) -> None:
    net = Net(groups)
    y = qlinear_conv(net, net.input([1, 6, 5, 5]), 6, (outputs, 3, 3), groups)
    (layer,) = agree(net.model(y), net.rng).steps
    assert isinstance(layer, Conv)
    assert layer.weights.shape == (outputs, 6, 3, 3)
    assert layer.macs == outputs * (6 // groups) * 9 * 9


def test_one_dimensional_convolution() -> None:
    net = Net(3)
    y = qlinear_conv(net, net.input([1, 4, 20]), 4, (5, 3), strides=[2], pads=[1, 0])
    assert kinds(agree(net.model(y), net.rng)) == ["Conv"]


@pytest.mark.parametrize("seed", SEEDS)
def test_matrix_product_with_constant_weights(seed: int) -> None:
    net = Net(seed, unsigned=bool(seed % 2))
    rng = net.rng
    rows, inputs, outputs = rng.integers(1, 20, 3).tolist()
    scales = np.asarray(rng.uniform(0.001, 0.02, outputs if seed % 3 else ()), np.float32)
    weights = [net.weights((inputs, outputs)), scales, np.zeros(scales.shape, np.int8)]
    x = net.input([[rows, inputs], [1, rows, inputs]][seed % 2])
    y = net.node("QLinearMatMul", [x, *net.steps(), *map(net.constant, weights), *net.steps()])
    assert kinds(agree(net.model(y), rng)) == ["Conv"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_general_product(seed: int, transposed: int) -> None:
    net = Net(seed, unsigned=bool(seed % 2))
    inputs, outputs = net.rng.integers(1, 40, 2).tolist()
    weights = net.weights((outputs, inputs) if transposed else (inputs, outputs))
    scales = np.asarray(net.rng.uniform(0.001, 0.02, outputs), np.float32)
    bias = net.constant(np.asarray(net.rng.integers(-3000, 3000, outputs), np.int32))
    constants = map(net.constant, (weights, scales, np.zeros(outputs, np.int8)))
    x = net.input([1, inputs])
    y = net.node("QGemm", [x, *net.steps(), *constants, bias, *net.steps()], MICROSOFT, transB=transposed)
    assert kinds(agree(net.model(y), net.rng)) == ["Conv"]


@pytest.mark.parametrize("seed", range(16))
def test_addition(seed: int) -> None:
    """About one in a hundred has no integer constants; then it is foreign, and agrees all the same."""
    net = Net(seed, unsigned=bool(seed % 2))
    a, b = net.input([1, 16, 16, 16]), net.input([1, 16, 16, 16])
    steps = [net.steps(net.scale(0.01, 0.1)) for _ in range(3)]
    y = net.node("QLinearAdd", [a, *steps[0], b, *steps[1], *steps[2]], MICROSOFT)
    assert kinds(agree(net.model(y), net.rng)) in (["Add"], ["Foreign"])


def test_addition_that_broadcasts_is_foreign() -> None:
    net = Net(1)
    a, b = net.input([1, 4, 5, 5]), net.input([1, 4, 1, 1])
    y = net.node("QLinearAdd", [a, *net.steps(), b, *net.steps(), *net.steps()], MICROSOFT)
    graph = agree(net.model(y), net.rng)
    assert kinds(graph) == ["Foreign"]
    assert "broadcasts" in graph.steps[0].why  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", SEEDS)
def test_global_average(seed: int) -> None:
    net = Net(seed, unsigned=bool(seed % 2))
    x = net.input([1, 70, *net.rng.integers(1, 12, 2).tolist()])
    y = net.node("QLinearGlobalAveragePool", [x, *net.steps(), *net.steps()], MICROSOFT)
    assert kinds(agree(net.model(y), net.rng)) == ["Pool"]


@pytest.mark.parametrize("seed", SEEDS)
def test_maximum(seed: int) -> None:
    net = Net(seed, unsigned=bool(seed % 2))
    rng = net.rng
    ceil = int(seed % 4 == 1)
    attributes = {"kernel_shape": [3, 2], "strides": rng.integers(1, 4, 2).tolist(), "ceil_mode": ceil}
    pads = rng.integers(0, 2, 2).tolist() + ([0, 0] if ceil else rng.integers(0, 2, 2).tolist())
    attributes |= {"pads": pads} if seed % 3 else {"auto_pad": "SAME_UPPER"}
    x = net.input([1, 3, *rng.integers(4, 10, 2).tolist()])
    y = net.node("MaxPool", [x], **attributes)
    assert kinds(agree(net.model(y), rng)) == ["Pool"]


def test_dilated_maximum_is_foreign() -> None:
    net = Net(1)
    y = net.node("MaxPool", [net.input([1, 3, 9, 9])], kernel_shape=[3, 3], dilations=[2, 2])
    assert kinds(agree(net.model(y), net.rng)) == ["Foreign"]


def test_averages_of_windows_are_foreign() -> None:
    """ONNX Runtime sums them in float32: no integer formula gives its ties."""
    net = Net(2)
    x, steps = net.input([1, 3, 8, 8]), net.steps()
    y = net.node("QLinearAveragePool", [x, *steps, *steps], MICROSOFT, kernel_shape=[2, 2], strides=[2, 2])
    assert kinds(agree(net.model(y), net.rng)) == ["Foreign"]


@pytest.mark.parametrize("seed", SEEDS)
def test_fully_connected_reads_planes_through_views(seed: int) -> None:
    """Flatten, Reshape and Transpose between two layers only permute the weights of the second."""
    net = Net(seed, unsigned=bool(seed % 2))
    y = qlinear_conv(net, net.input([1, 3, 8, 8]), 3, (4, 3, 3))
    if seed % 4 == 1:
        y = net.node("Transpose", [y], perm=[0, 2, 3, 1])
    if seed % 4 == 2:
        y = net.node("Reshape", [y, net.constant(np.array([1, -1]))])
    elif seed % 4 == 3:
        y = net.node("Transpose", [net.node("Reshape", [y, net.constant(np.array([12, 12]))])])
        y = net.node("Reshape", [y, net.constant(np.array([1, 144]))])
    else:
        y = net.node("Flatten", [y])
    constants = map(net.constant, (net.weights((144, 7)), np.asarray(net.scale()), np.zeros((), np.int8)))
    y = net.node("QLinearMatMul", [y, *net.steps(), *constants, *net.steps()])
    assert kinds(agree(net.model(y), net.rng)) == ["Conv", "Conv"]


def test_layers_that_need_another_arrangement_get_it_on_the_host() -> None:
    net = Net(5)
    y = qlinear_conv(net, net.input([1, 3, 8, 8]), 3, (4, 3, 3))
    y = net.node("Transpose", [y], perm=[0, 2, 1, 3])
    y = qlinear_conv(net, y, 6, (2, 3, 3))
    assert kinds(agree(net.model(y), net.rng)) == ["Conv", "transpose", "Conv"]


def test_pictures_with_channels_last_are_transposed_for_free() -> None:
    net = Net(6)
    y = net.node("Transpose", [net.input([1, 9, 7, 3])], perm=[0, 3, 1, 2])
    graph = agree(net.model(qlinear_conv(net, y, 3, (4, 3, 3))), net.rng)
    assert kinds(graph) == ["Conv"]
    assert graph.tensors["in1"].layout == "nhwc"


def test_views_at_the_end_are_host_operators() -> None:
    net = Net(7)
    y = net.node("Flatten", [qlinear_conv(net, net.input([1, 3, 8, 8]), 3, (4, 3, 3))])
    assert kinds(agree(net.model(y), net.rng)) == ["Conv", "reshape"]


def test_a_tensor_that_is_read_twice() -> None:
    net = Net(8)
    x = net.input([1, 4, 6, 6])
    trunk = qlinear_conv(net, x, 4, (4, 3, 3), pads=[1, 1, 1, 1])
    steps = net.steps(np.float32(0.05))
    branches = [trunk, qlinear_conv(net, trunk, 4, (4, 1, 1))]
    y = net.node("QLinearAdd", [branches[0], *steps, branches[1], *steps, *steps], MICROSOFT)
    pooled = net.node("MaxPool", [trunk], kernel_shape=[2, 2], strides=[2, 2])
    assert kinds(agree(net.model(y, pooled), net.rng)) == ["Conv", "Conv", "Add", "Pool"]


def test_numbers_that_are_clamped_on_their_own() -> None:
    """Relu between the same steps on both sides is exact, so it is a layer: an average over one pixel."""
    net = Net(9)
    steps = net.steps(np.float32(0.05), np.asarray(100, np.uint8))
    y = net.quantize(net.node("Relu", [net.dequantize(net.input([1, 3, 4, 5]), steps)]), steps)
    (layer,) = agree(net.model(y), net.rng).steps
    assert isinstance(layer, Pool)
    assert (layer.kernel, layer.low, layer.high) == ((1, 1), 100 - 128, 127)
