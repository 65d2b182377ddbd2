"""A model whose runs take as long as their input says: y = 2 x, after ``max(x[:, 3])`` multiplications of matrices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.serving.spec import WorkerSpec
from tests.system.serving_models import make_spec

SIDE = 256  # a multiplication takes a fraction of a millisecond


def make_slow_spec(root: Path, name: str, golden_steps: int = 60) -> WorkerSpec:
    """FP32 [any, 4] → FP32 [any, 4]; ``golden_steps``: how long the golden runs, which set the pace, take."""
    spec = make_spec(root, name, 2.0)
    onnx.save(
        helper.make_model(_graph(name), opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        spec.file.path,
    )
    samples = np.ones((2, 1, 4), np.float32)
    samples[..., 3] = golden_steps
    spec.golden.inputs["x"].write_bytes(samples.tobytes())
    spec.golden.outputs["y"].write_bytes((2 * samples).tobytes())
    return replace(spec, memory_mb=0)


def _graph(name: str) -> onnx.GraphProto:
    node, info, floats = helper.make_node, helper.make_tensor_value_info, TensorProto.FLOAT
    identity = numpy_helper.from_array(np.eye(SIDE, dtype=np.float32), "identity")
    constants = [
        numpy_helper.from_array(np.ones((SIDE, SIDE), np.float32), "ones"),
        numpy_helper.from_array(np.array(3, np.int64), "last"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
        numpy_helper.from_array(np.array(2, np.float32), "two"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    body = helper.make_graph(
        [node("Identity", ["going"], ["on"]), node("MatMul", ["state", "identity"], ["next"])],
        "step",
        [
            info("step", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("state", floats, [SIDE, SIDE]),
        ],
        [info("on", TensorProto.BOOL, []), info("next", floats, [SIDE, SIDE])],
        [identity],
    )
    return helper.make_graph(
        [
            node("Gather", ["x", "last"], ["asked"], axis=1),
            node("ReduceMax", ["asked"], ["most"], keepdims=0),
            node("Cast", ["most"], ["steps"], to=TensorProto.INT64),
            node("Loop", ["steps", "", "ones"], ["end"], body=body),
            node("ReduceMax", ["end"], ["large"], keepdims=0),  # 1, whatever the number of steps
            node("Mul", ["x", "two"], ["doubled"]),
            node("Mul", ["doubled", "large"], ["y"]),
        ],
        name,
        [info("x", floats, ["n", 4])],
        [info("y", floats, ["n", 4])],
        [constant for constant in constants if constant.name not in ("zero", "one")],
    )
