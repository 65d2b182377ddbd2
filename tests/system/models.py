"""A model that adds up its input: y [1, 1] of x [1, size], FP32; another size is another model with the same name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper


def write_sum(folder: Path, version: str, size: int) -> Path:
    """A model folder that ``overlaid fleet pack`` takes."""
    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, folder / "sum.onnx")
    samples = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    np.save(folder / "x.npy", samples)
    np.save(folder / "y.npy", samples.sum(1, keepdims=True))
    (folder / "model.toml").write_text(
        f'name = "sum"\nversion = "{version}"\nlicence = "none"\n'
        f'[[inputs]]\nname = "x"\ndtype = "FP32"\nshape = [1, {size}]\n'
        '[[outputs]]\nname = "y"\ndtype = "FP32"\nshape = [1, 1]\n'
        '[golden]\ncount = 2\ninputs = { x = "x.npy" }\n'
        '[[variants]]\nname = "fp32"\nformat = "onnx"\nprecision = "fp32"\ndevices = ["cpu"]\n'
        'accuracy = 1.0\nfile = "sum.onnx"\ngolden = { outputs = { y = "y.npy" }, atol = 1e-3, rtol = 1e-3 }\n'
    )
    return folder
