"""Whole channels taken out of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from agent.fleet.prepare.channels import Net, remove, rounded
from tests.unit.fleet.prepare.nets import convolutional, model, pictures, runtime

Array = NDArray[Any]


def groups(proto: ModelProto) -> dict[str, list[str]]:
    """Makers, with those who read their channels."""
    return {
        group.maker.name: [reader.node.name for reader in group.readers]
        for group in Net(proto.SerializeToString()).groups()
    }


def numbers(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_channels_between_layers_can_go_and_outputs_stay() -> None:
    assert groups(convolutional()) == {"first": ["second"], "second": ["head"]}


def test_a_sum_keeps_the_channels_of_its_operands() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="one"),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="two"),
        helper.make_node("Add", ["a", "b"], ["c"], name="sum"),
        helper.make_node("Conv", ["c", "w2"], ["y"], name="three"),
    ]
    weights = {"w0": numbers(4, 2, 1, 1), "w1": numbers(4, 4, 1, 1), "w2": numbers(3, 4, 1, 1)}
    assert groups(model(nodes, weights, output=("N", 3, 6, 6))) == {}


def test_scalars_stay_scalars() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="one"),
        helper.make_node("Clip", ["a", "", "six"], ["y"], name="relu6"),
    ]
    weights = {"w": numbers(3, 2, 1, 1), "six": np.array(6, np.float32)}
    net = Net(model(nodes, weights, output=("N", 3, 6, 6)).SerializeToString())
    assert Net(net.bytes()).constants["six"].shape == ()


def test_what_an_inner_graph_reads_stays() -> None:
    inner = helper.make_graph(
        [helper.make_node("Conv", ["a", "w1"], ["t"], name="inner")],
        "then",
        [],
        [helper.make_tensor_value_info("t", 1, ("N", 2, 6, 6))],
    )
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="one"),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="two"),
        helper.make_node("If", ["yes"], ["c"], name="either", then_branch=inner, else_branch=inner),
        helper.make_node("Conv", ["b", "w2"], ["d"], name="three"),
        helper.make_node("Add", ["c", "d"], ["y"], name="sum"),
    ]
    weights = {"w0": numbers(8, 2, 1, 1), "w1": numbers(2, 8, 1, 1), "w2": numbers(2, 2, 1, 1)}
    assert groups(model(nodes, weights | {"yes": np.array(True)}, output=("N", 2, 6, 6))) == {}


def test_weights_that_two_layers_share_stay() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="one"),
        helper.make_node("Conv", ["a", "w"], ["y"], name="two"),
    ]
    assert groups(model(nodes, {"w": numbers(2, 2, 1, 1)}, output=("N", 2, 6, 6))) == {}


def long_way(last: str) -> ModelProto:
    """Channels go through a depthwise convolution, a pool and ``last`` (Flatten or Reshape) into a matrix."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], name="maker"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w1", "b1"], ["d"], name="depthwise", group=4),
        helper.make_node("MaxPool", ["d"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(last, ["p", "shape"] if last == "Reshape" else ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], name="head"),
    ]
    weights = {
        "w0": numbers(4, 2, 1, 1),
        "b0": numbers(4),
        "w1": numbers(4, 1, 3, 3),
        "b1": numbers(4),
        "w2": numbers(16, 3),
    }
    if last == "Reshape":
        weights["shape"] = np.array([0, 16], np.int64)
    return model(nodes, weights)


@pytest.mark.parametrize("last", ["Flatten", "Reshape"])
def test_dead_channels_go_without_a_trace(last: str) -> None:
    """A channel that is the same everywhere, whatever the picture, is what its average stands for exactly."""
    proto = long_way(last)
    net = Net(proto.SerializeToString())
    net.constants["w0"][[1, 3]] = 0
    net.constants["b0"][[1, 3]] = [0.5, -1.0]
    dead = net.bytes()
    x = pictures(6)
    names = ("f",)
    rows = _tensor(dead, names[0], x).mean(axis=0)
    net = Net(dead)
    (group,) = net.groups()
    assert (group.count, group.readers[0].spread, len(group.between)) == (4, 4, 1)
    remove(net, group, np.array([1, 3]), {"f": rows})
    smaller = net.bytes()
    assert Net(smaller).constants["w0"].shape == (2, 2, 1, 1)
    assert Net(smaller).constants["w1"].shape == (2, 1, 3, 3)
    assert Net(smaller).constants["w2"].shape == (8, 3)
    np.testing.assert_allclose(runtime(smaller, x), runtime(dead, x), atol=1e-5)


def _tensor(source: bytes, name: str, x: Array) -> Array:
    import onnx

    proto = onnx.load_model_from_string(source)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    return runtime(proto.SerializeToString(), x)


@pytest.mark.parametrize(
    ("count", "share", "left"), [(64, 0.25, 48), (32, 0.125, 32), (20, 0.5, 16), (4, 0.5, 4), (64, 0.99, 8)]
)
def test_whole_blocks_stay(count: int, share: float, left: int) -> None:
    assert rounded(count, share, 8) == left
