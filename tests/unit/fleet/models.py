"""Model folders that the tests of this room pack: one ONNX matrix product, y = x @ w."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MODEL_TOML = """\
name = "net"
version = "1.0.0"
description = "one layer"
licence = "Apache-2.0"

[[inputs]]
name = "x"
dtype = "FP32"
shape = [-1, 64]

[[outputs]]
name = "y:0"
dtype = "FP32"
shape = [-1, 32]

[golden]
count = 3
inputs = { x = "golden/x.npy" }

[[variants]]
name = "fp32"
format = "onnx"
precision = "fp32"
devices = ["cpu"]
accuracy = 0.5
file = "net.onnx"
golden = { outputs = { "y:0" = "golden/y.npy" }, atol = 1e-4, rtol = 1e-4 }
"""


def weights(seed: int = 0) -> NDArray[np.float32]:
    """[64, 32]: 8 KiB."""
    return np.random.default_rng(seed).standard_normal((64, 32)).astype(np.float32)


def onnx_bytes(w: NDArray[np.float32], name: str = "w") -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], ["y:0"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y:0", TensorProto.FLOAT, ["N", 32])],
        [numpy_helper.from_array(w, name)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def make_folder(path: Path, toml: str = MODEL_TOML, **files: Any) -> Path:
    """A model folder that packs, unless ``toml`` or ``files`` (x, y: arrays; net: bytes) say otherwise."""
    (path / "golden").mkdir(parents=True)
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    w = weights()
    np.save(path / "golden" / "x.npy", files.get("x", x))
    np.save(path / "golden" / "y.npy", files.get("y", x @ w))
    (path / "net.onnx").write_bytes(files.get("net", onnx_bytes(w)))
    (path / "model.toml").write_text(toml)
    return path
