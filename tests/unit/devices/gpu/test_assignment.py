"""Nodes that a provider leaves to the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices.gpu import assignment
from agent.devices.gpu.assignment import CPU, Node, Tensor, check, computes_shapes, describe
from agent.devices.gpu.onnx_create import profile_run
from agent.errors import DeviceMismatch

EP = "SomeExecutionProvider"
CONV = Node(EP, "Conv", "stem")
SIZES, IMAGE = Tensor("int64", 4), Tensor("float", 4096)


def node(operator: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Node:
    return Node(CPU, operator, operator.lower(), inputs, outputs)


def test_a_model_that_runs_wholly_where_it_should() -> None:
    check([CONV, Node(EP, "Relu", "relu")], EP)
    check([CONV, Node("OtherExecutionProvider", "Relu", "relu")], EP, ["OtherExecutionProvider"])


def test_operators_on_the_cpu_are_named_with_their_counts() -> None:
    strangers = [Node(CPU, "QuantizeLinear", f"q{number}") for number in range(7)]
    with pytest.raises(
        DeviceMismatch,
        match=r"leaves QuantizeLinear x 7, TopK \(q0, q1, q2, q3, q4, \.\.\.\) to CPUExecutionProvider; place",
    ):
        check([CONV, *strangers, Node(CPU, "TopK", "best")], EP)


def test_operators_on_another_provider_are_no_better() -> None:
    with pytest.raises(DeviceMismatch, match=r"leaves Relu \(relu\) to OtherExecutionProvider"):
        check([CONV, Node("OtherExecutionProvider", "Relu", "relu")], EP)


def test_a_provider_that_took_nothing() -> None:
    with pytest.raises(DeviceMismatch, match="took no node of the model"):
        check([Node(CPU, "Shape", "s")], EP)
    with pytest.raises(DeviceMismatch, match="took no node of the model"):
        check([], EP)


@pytest.mark.parametrize(
    ("each", "is_one"),
    [
        (Node(CPU, "Shape", "s"), True),  # by its kind, its tensors are not known
        (Node(CPU, "Gather", "g"), False),
        (node("Shape", (IMAGE,), (SIZES,)), True),
        (node("Gather", (SIZES, Tensor("int64", 1)), (Tensor("int64", 1),)), True),
        (node("Equal", (SIZES, SIZES), (Tensor("bool", 4),)), True),
        (
            node("ArgMax", (Tensor("float", 1000),), (Tensor("int64", 1),)),
            False,
        ),  # work on the model's values
        (node("Softmax", (Tensor("float", 10),), (Tensor("float", 10),)), False),
        (node("Cast", (IMAGE,), (Tensor("int64", 4096),)), False),
        (node("Add", (Tensor("int64", 65), Tensor("int64", 65)), (Tensor("int64", 65),)), False),
        (node("Print", (SIZES,), ()), False),
    ],
)
def test_arithmetic_on_shapes_may_stay_on_the_cpu(each: Node, is_one: bool) -> None:
    assert computes_shapes(each) == is_one


def test_many_kinds_of_operators_are_summed_up() -> None:
    text = describe([Node(CPU, f"Op{number}", "") for number in range(11)])
    assert text.endswith("Op7 and 3 other operators")


def test_hostile_names_make_one_short_line() -> None:
    strangers = [Node(CPU, f"Op{number}" * 1000, "a\n\x1b[2Jb" * 1000) for number in range(9)]
    text = describe(strangers)
    assert text.isprintable() and len(text) < 1500
    assert describe([Node(CPU, "Cast", "a\nb")]) == "Cast (a b)"


def reshaping_model() -> bytes:
    """y = relu(reshape(x, [size of x's first dimension, 4])), x FP32 [n, 2, 2]."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "zero"], ["first"], "gather"),
        helper.make_node("Concat", ["first", "four"], ["target"], "concat", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"], "reshape"),
        helper.make_node("Relu", ["flat"], ["y"], "relu"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 4])],
        [
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("four", TensorProto.INT64, [1], [4]),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def profiled_on_the_cpu(at: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(at)
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # it knows the answer
    return onnxruntime.InferenceSession(reshaping_model(), options, providers=[CPU])


def test_a_profiled_run_tells_nodes_and_tensors() -> None:
    nodes, failed = profile_run(profiled_on_the_cpu, {"x": np.zeros((1, 2, 2), np.float32)})
    assert failed is None
    found = {node.operator: node for node in nodes}
    assert found["Relu"].outputs == (Tensor("float", 4),)
    assert found["Relu"].provider == CPU
    assert {node.operator for node in assignment.on_cpu(nodes)} == {"Reshape", "Relu"}
    assert {"Shape", "Gather", "Concat"} <= set(found)


def test_a_profiled_run_that_fails_tells_so() -> None:
    _, failed = profile_run(profiled_on_the_cpu, {"x": np.zeros((1, 3, 3), np.float32)})
    assert failed is not None


def test_a_profile_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="list"):
        assignment.read_profile(path)
    other = [1, {"cat": "Node"}, {"cat": "Node", "name": "a_kernel_time"}, {"cat": "Session", "name": "b"}]
    path.write_text(json.dumps(other))
    assert assignment.read_profile(path) == ()
