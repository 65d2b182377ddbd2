"""Random networks of quantised operators, with branches and views: the golden model gives ONNX Runtime's bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.unit.overlay.onnx_nets import MICROSOFT, Net, agree, kinds


@dataclass(frozen=True)
class Value:
    name: str
    steps: list[str]
    shape: tuple[int, ...]


def convolution(net: Net, x: Value) -> Value:
    _, channels, height, width = x.shape
    depthwise, stride = bool(net.rng.integers(2)), int(net.rng.integers(1, 3))
    outputs = channels if depthwise else int(net.rng.integers(1, 20))
    shape = (outputs, 1 if depthwise else channels, 3, 3)
    scales = (net.rng.uniform(0.5, 2, outputs) * 0.02 / np.sqrt(shape[1] * 9)).astype(np.float32)
    constants = [net.weights(shape), scales, np.zeros(outputs, np.int8)]
    steps = net.steps(np.float32(0.05))
    bias = net.constant(net.rng.integers(-500, 500, outputs).astype(np.int32))
    name = net.node(
        "QLinearConv", [x.name, *x.steps, *map(net.constant, constants), *steps, bias],
        strides=[stride, stride], pads=[1, 1, 1, 1], group=channels if depthwise else 1,
    )  # fmt: skip
    return Value(name, steps, (1, outputs, -(-height // stride), -(-width // stride)))


def residual(net: Net, x: Value) -> Value:
    """A convolution that keeps the shape, and its input added."""
    outputs = x.shape[1]
    constants = [
        net.weights((outputs, outputs, 1, 1)),
        np.float32(0.01 / outputs**0.5),
        np.zeros((), np.int8),
    ]
    steps = net.steps(np.float32(0.05))
    arrays = [net.constant(np.asarray(each)) for each in constants]
    y = net.node("QLinearConv", [x.name, *x.steps, *arrays, *steps])
    total = net.steps(np.float32(0.07))
    inputs = [x.name, *x.steps, y, *steps] if net.rng.integers(2) else [y, *steps, x.name, *x.steps]
    return Value(net.node("QLinearAdd", [*inputs, *total], MICROSOFT), total, x.shape)


def maximum(net: Net, x: Value) -> Value:
    _, channels, height, width = x.shape
    name = net.node("MaxPool", [x.name], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return Value(name, x.steps, (1, channels, -(-height // 2), -(-width // 2)))


def turned(net: Net, x: Value) -> Value:
    """Rows and columns changed: the next layer needs that on the host."""
    batch, channels, height, width = x.shape
    return Value(
        net.node("Transpose", [x.name], perm=[0, 1, 3, 2]), x.steps, (batch, channels, width, height)
    )


def head(net: Net, x: Value) -> Value:
    y = x
    if net.rng.integers(2):
        steps = net.steps(np.float32(0.02))
        name = net.node("QLinearGlobalAveragePool", [x.name, *x.steps, *steps], MICROSOFT)
        y = Value(name, steps, (1, x.shape[1], 1, 1))
    flat = net.node("Flatten", [y.name])
    inputs, steps = int(np.prod(y.shape)), net.steps(np.float32(0.1))
    constants = [net.weights((inputs, 10)), np.float32(0.02 / inputs**0.5), np.zeros((), np.int8)]
    arrays = [net.constant(np.asarray(each)) for each in constants]
    return Value(net.node("QLinearMatMul", [flat, *y.steps, *arrays, *steps]), steps, (1, 10))


@pytest.mark.parametrize("seed", range(24))
def test_chain(seed: int) -> None:
    net = Net(seed, unsigned=bool(seed % 2))
    shape = (1, int(net.rng.integers(1, 9)), *net.rng.integers(6, 16, 2).tolist())
    x = convolution(net, Value(net.input(shape), net.steps(np.float32(0.05)), shape))
    outputs = []
    for make in net.rng.choice([convolution, convolution, residual, residual, maximum, turned], 5):  # type: ignore[arg-type]
        x = make(net, x)
        if net.rng.integers(4) == 0:
            outputs.append(x.name)
    outputs.append(head(net, x).name)
    graph = agree(net.model(*outputs), net.rng)
    assert set(kinds(graph)) <= {"Conv", "Add", "Pool", "transpose", "Foreign"}
    assert kinds(graph).count("Foreign") <= 1  # an addition that has no integer constants is rare
