"""Groups of nodes between DequantizeLinear and QuantizeLinear: one layer each, with ONNX Runtime's bytes.

Every test is of random numbers, with UINT8 activations for odd seeds and INT8 ones for even ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from agent.overlay.graph import Conv, Foreign
from agent.overlay.importers.import_onnx import import_onnx
from tests.unit.overlay.onnx_nets import Array, Net, agree, kinds

Made = tuple[str, Array]  # a dequantised tensor and its scale
Clamp = Callable[[Net, str], str]
SEEDS = range(4)


def activation(net: Net, shape: Sequence[int], low: float = 0.005, high: float = 0.1) -> Made:
    scale = net.scale(low, high)
    return net.dequantize(net.input(shape), net.steps(scale)), np.asarray(scale)


def weights(net: Net, shape: Sequence[int], axis: int = 0) -> Made:
    """One scale for each output, which are along ``axis``."""
    scales = np.asarray(net.rng.uniform(0.001, 0.02, shape[axis]), np.float32)
    steps = [net.constant(scales), net.constant(np.zeros(shape[axis], np.int8))]
    return net.dequantize(net.constant(net.weights(shape)), steps, axis=axis), scales


def bias(net: Net, scales: Array, kind: str) -> str:
    """``scales``: those of input times weights. ``kind``: INT32 behind DequantizeLinear, or numbers."""
    steps = net.rng.integers(-2000, 2000, scales.size).astype(np.int32)
    if kind == "INT32":
        parameters = [net.constant(scales), net.constant(np.zeros(scales.size, np.int32))]
        return net.dequantize(net.constant(steps), parameters, axis=0)
    return net.constant(((steps + net.rng.uniform(-0.4, 0.4, scales.size)) * scales).astype(np.float32))


def convolution(net: Net, kind: str = "INT32") -> str:
    """Real numbers, not yet quantised."""
    x, scale = activation(net, [1, 4, 8, 8])
    w, scales = weights(net, (6, 4, 3, 3))
    return net.node("Conv", [x, w, bias(net, scale * scales, kind)], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def lowest(net: Net) -> Array:
    return np.asarray(np.iinfo(net.dtype).min, net.dtype)


def middle(net: Net) -> Array:
    return np.asarray(128 if net.dtype == np.uint8 else 0, net.dtype)


def relu(net: Net, x: str) -> str:
    return net.node("Relu", [x])


def clip(low: float, high: float) -> Clamp:
    return lambda net, x: net.node("Clip", [x, *(net.constant(np.float32(each)) for each in (low, high))])


@pytest.mark.parametrize("kind", ["INT32", "FP32"])
@pytest.mark.parametrize("seed", SEEDS)
def test_convolution_with_a_bias_of_either_kind(seed: int, kind: str) -> None:
    net = Net(seed, bool(seed % 2))
    assert kinds(agree(net.model(net.quantize(convolution(net, kind), net.steps())), net.rng)) == ["Conv"]


@pytest.mark.parametrize(
    ("clamp", "scale", "zero_point", "bounds"),
    [
        (relu, 0.03, lowest, (-128, 127)),
        (relu, 0.03, middle, (0, 127)),
        (clip(0, 6), 6 / 255, lowest, (-128, 127)),
        (clip(-1, 1), 0.02, middle, (-50, 50)),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_clamps_become_bounds(
    seed: int, clamp: Clamp, scale: float, zero_point: Callable[[Net], Array], bounds: tuple[int, int]
) -> None:
    net = Net(seed, bool(seed % 2))
    y = clamp(net, convolution(net))
    y = net.quantize(y, net.steps(np.float32(scale), zero_point(net)))
    (layer,) = agree(net.model(y), net.rng).steps
    assert isinstance(layer, Conv)
    assert (layer.low, layer.high) == bounds
    assert len(layer.nodes) == 3


@pytest.mark.parametrize("kind", ["", "INT32", "FP32"])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_product_and_the_addition_of_its_bias(seed: int, rows: int, kind: str) -> None:
    net = Net(seed, bool(seed % 2))
    (x, scale), (w, scales) = activation(net, [rows, 20]), weights(net, (20, 7), 1)
    y = net.node("MatMul", [x, w])
    if kind:
        y = net.node("Add", [y, bias(net, scale * scales, kind)])
    assert kinds(agree(net.model(net.quantize(y, net.steps())), net.rng)) == ["Conv"]


@pytest.mark.parametrize("kind", ["INT32", "FP32"])
@pytest.mark.parametrize("seed", SEEDS)
def test_general_product(seed: int, kind: str) -> None:
    net = Net(seed, bool(seed % 2))
    (x, scale), (w, scales) = activation(net, [1, 20]), weights(net, (7, 20))
    y = net.node("Gemm", [x, w, bias(net, scale * scales, kind)], transB=1)
    assert kinds(agree(net.model(net.quantize(y, net.steps())), net.rng)) == ["Conv"]


def test_transposed_weights() -> None:
    net = Net(1)
    x, _ = activation(net, [1, 20])
    w = net.node("Transpose", [weights(net, (7, 20))[0]], perm=[1, 0])
    y = net.quantize(net.node("MatMul", [x, w]), net.steps())
    assert kinds(agree(net.model(y), net.rng)) == ["Conv"]


@pytest.mark.parametrize("zero_point", [lowest, middle])
@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_addition(seed: int, clamped: bool, zero_point: Callable[[Net], Array]) -> None:
    net = Net(seed, bool(seed % 2))
    y = net.node("Add", [activation(net, [1, 8, 9, 9], 0.02)[0] for _ in range(2)])
    y = relu(net, y) if clamped else y
    y = net.quantize(y, net.steps(net.scale(0.02, 0.1), zero_point(net)))
    assert kinds(agree(net.model(y), net.rng)) == ["Add"]


@pytest.mark.parametrize("seed", SEEDS)
def test_global_average(seed: int) -> None:
    net = Net(seed, bool(seed % 2))
    y = net.quantize(net.node("GlobalAveragePool", [activation(net, [1, 40, 7, 5])[0]]), net.steps())
    assert kinds(agree(net.model(y), net.rng)) == ["Pool"]


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_softmax_between_quantised_tensors_is_a_host_operator(seed: int, axis: int) -> None:
    net = Net(seed, bool(seed % 2))
    y = net.node("Softmax", [activation(net, [1, 20, 30])[0]], axis=axis)
    y = net.quantize(y, net.steps(np.float32(1 / 256), lowest(net)))
    assert kinds(agree(net.model(y), net.rng, runs=5)) == ["qlinear_softmax"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_border_of_real_numbers(seed: int) -> None:
    net = Net(seed, bool(seed % 2))
    steps, w = net.steps(), weights(net, (6, 4, 3, 3))[0]
    x = net.dequantize(net.quantize(net.input([1, 4, 8, 8], np.float32), steps), steps)
    steps = net.steps()
    y = net.dequantize(net.quantize(net.node("Conv", [x, w]), steps), steps)
    first, second = net.node("ArgMax", [y], axis=1), net.node("Flatten", [y])
    graph = agree(net.model(first, second), net.rng)
    assert kinds(graph) == ["quantize", "Conv", "dequantize", "argmax", "reshape"]


def test_softmax_of_real_numbers_agrees_but_for_the_last_bits() -> None:
    net = Net(1)
    y = net.node("Softmax", [activation(net, [1, 11])[0]], axis=1)
    assert kinds(agree(net.model(y), net.rng, runs=10, atol=1e-6)) == ["dequantize", "softmax"]


@pytest.mark.parametrize("seed", SEEDS)
def test_other_steps_on_both_sides_of_nothing(seed: int) -> None:
    net = Net(seed, bool(seed % 2))
    y = net.quantize(activation(net, [1, 4, 8, 8])[0], net.steps())
    assert kinds(agree(net.model(y), net.rng)) in (["Pool"], ["Foreign"])


@pytest.mark.parametrize("order", [("Flatten", "Relu"), ("Relu", "Flatten")])
def test_views_before_the_result_is_quantised(order: tuple[str, ...]) -> None:
    net = Net(1)
    y = convolution(net)
    for op in order:
        y = net.node(op, [y])
    assert kinds(agree(net.model(net.quantize(y, net.steps(None, lowest(net)))), net.rng)) == ["Conv"]


def test_views_of_real_numbers_between_two_layers() -> None:
    net = Net(2)
    steps = net.steps()
    y = net.dequantize(net.quantize(convolution(net), steps), steps)
    y = net.node("Reshape", [net.node("Transpose", [y], perm=[0, 2, 3, 1]), net.constant(np.array([1, 384]))])
    y = net.quantize(net.node("MatMul", [y, weights(net, (384, 5), 1)[0]]), net.steps())
    assert kinds(agree(net.model(y), net.rng)) == ["Conv", "Conv"]


def foreign_node(op: str, inputs: int = 1, **attributes: Any) -> Callable[[Net], str]:
    return lambda net: net.node(op, [activation(net, [1, 4, 8, 8])[0] for _ in range(inputs)], **attributes)


@pytest.mark.parametrize(
    ("op", "make"),
    [
        ("AveragePool", foreign_node("AveragePool", kernel_shape=[2, 2])),
        ("Sigmoid", foreign_node("Sigmoid")),
        ("Concat", foreign_node("Concat", 2, axis=1)),
        ("Mul", foreign_node("Mul", 2)),
        ("ReduceMean", foreign_node("ReduceMean", axes=[2, 3])),
        ("MaxPool", foreign_node("MaxPool", kernel_shape=[2, 2])),
    ],
)
def test_what_the_overlay_lacks_is_one_foreign_step_with_its_q_and_dq_nodes(
    op: str, make: Callable[[Net], str]
) -> None:
    """So that ONNX Runtime still runs it as it runs it inside the whole model."""
    net = Net(3)
    y = make(net)
    (step,) = agree(net.model(net.quantize(y, net.steps())), net.rng).steps
    assert isinstance(step, Foreign)
    assert step.why.startswith(f"{op} {y!r}: ")
    assert set(step.nodes) == {node.name for node in net.nodes}


def test_neighbouring_foreign_steps_are_one() -> None:
    net = Net(4)
    steps = net.steps()
    y = net.node("Sigmoid", [net.dequantize(net.quantize(convolution(net), steps), steps)])
    y = net.node("Mul", [net.dequantize(net.quantize(y, steps), steps), net.constant(np.float32(0.5))])
    y = net.node("HardSwish", [net.dequantize(net.quantize(y, steps), steps)])
    graph = agree(net.model(net.quantize(y, steps)), net.rng)
    assert kinds(graph) == ["Conv", "Foreign"]
    (last,) = (step for step in graph.steps if isinstance(step, Foreign))
    assert [part.split()[0] for part in last.why.split("; ")] == ["Sigmoid", "Mul", "HardSwish"]
    assert (len(last.inputs), len(last.outputs)) == (1, 1)


def test_numbers_that_are_read_twice_before_they_are_quantised() -> None:
    net = Net(5)
    y = convolution(net)
    graph = agree(net.model(net.quantize(y, net.steps()), relu(net, y)), net.rng)
    assert not any(isinstance(step, Conv) for step in graph.steps)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shape", [[1, 40], [5, 40], [1, 40, 6, 7]])
@pytest.mark.parametrize("seed", SEEDS)
def test_additions_of_constants_are_depthwise_convolutions(
    seed: int, shape: list[int], swapped: bool
) -> None:
    """As biases are that come after a MatMul which was quantised alone."""
    net = Net(seed, bool(seed % 2))
    info = np.iinfo(net.dtype)
    values = net.rng.integers(info.min, info.max + 1, (40, 1, 1) if len(shape) == 4 else 40).astype(net.dtype)
    fixed = net.dequantize(net.constant(values), net.steps(net.scale(0.02, 0.1)))
    inputs = [activation(net, shape, 0.02)[0], fixed]
    y = net.node("Add", inputs[::-1] if swapped else inputs)
    graph = agree(net.model(net.quantize(y, net.steps(net.scale(0.03, 0.1)))), net.rng, runs=8)
    (layer,) = graph.steps
    assert isinstance(layer, Conv | Foreign)
    assert isinstance(layer, Foreign) or (layer.depthwise and layer.weights.shape == (40, 1, 1, 1))


def test_most_additions_of_constants_are_layers() -> None:
    found = 0
    for seed in range(12):
        net = Net(seed, bool(seed % 2))
        fixed = net.dequantize(net.constant(net.rng.integers(0, 100, 64).astype(net.dtype)), net.steps())
        y = net.node("Add", [activation(net, [1, 64], 0.02)[0], fixed])
        data = net.model(net.quantize(y, net.steps(net.scale(0.03, 0.1)))).SerializeToString()
        found += isinstance(import_onnx(data, "sum").steps[0], Conv)
    assert found >= 9
