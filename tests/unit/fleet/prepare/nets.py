"""Small float ONNX models, and data for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]
SIZE = 6  # pixels of a side


def model(
    nodes: Sequence[NodeProto],
    weights: dict[str, Array],
    *,
    shape: Sequence[Any] = ("N", 2, SIZE, SIZE),
    output: Sequence[Any] = ("N", 3),
    opset: int = 17,
    domains: Sequence[str] = (),
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def convolutional(seed: int = 0, *, normalised: bool = False, opset: int = 17) -> ModelProto:
    """Conv, Relu, Conv, Relu, GlobalAveragePool, Flatten, Gemm to three classes."""
    rng = np.random.default_rng(seed)
    weights = {
        "w0": rng.standard_normal((8, 2, 3, 3)) * 0.3,
        "b0": rng.standard_normal(8) * 0.1,
        "w1": rng.standard_normal((16, 8, 3, 3)) * 0.2,
        "b1": rng.standard_normal(16) * 0.1,
        "w2": rng.standard_normal((3, 16)),
        "b2": rng.standard_normal(3),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="first.relu"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], name="second", strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"], name="second.relu"),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"], name="mean"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], name="head", transB=1),
    ]
    if normalised:
        weights |= {
            "g": rng.random(8) + 0.5,
            "o": rng.random(8),
            "m": rng.random(8),
            "v": rng.random(8) + 0.5,
        }
        nodes[0].output[0] = "c"
        nodes.insert(
            1, helper.make_node("BatchNormalization", ["c", "g", "o", "m", "v"], ["c0"], name="norm")
        )
    return model(nodes, {name: np.asarray(array, np.float32) for name, array in weights.items()}, opset=opset)


def pictures(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 2, SIZE, SIZE)).astype(np.float32)


def runtime(source: bytes, x: Array) -> Array:
    """ONNX Runtime's first output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def save(path: Path, proto: ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def save_data(path: Path, count: int = 48, seed: int = 1, **arrays: Array) -> Path:
    found: dict[str, Any] = {**arrays} or {"x": pictures(count, seed)}
    np.savez(path, **found)
    return path
