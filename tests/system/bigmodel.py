"""A model folder of a chosen size, so that every phase of its deployment lasts long enough to be interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def make_big_model(folder: Path, name: str, version: str, width: int = 3200, seed: int = 0) -> Path:
    """One fully connected layer of width x width float32 (4 * width**2 bytes) with golden vectors by numpy."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "model.onnx"))
    x = rng.standard_normal((2, width)).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x @ weights)
    (folder / "model.toml").write_text(
        f'name = "{name}"\nversion = "{version}"\ndescription = "one layer"\nlicence = "Apache-2.0"\n'
        f'[[inputs]]\nname = "x"\ndtype = "FP32"\nshape = [1, {width}]\n'
        f'[[outputs]]\nname = "y"\ndtype = "FP32"\nshape = [1, {width}]\n'
        '[golden]\ncount = 2\ninputs = { x = "x.npy" }\n'
        '[[variants]]\nname = "fp32"\nformat = "onnx"\nprecision = "fp32"\ndevices = ["cpu"]\nfile = "model.onnx"\n'
        'golden = { outputs = { y = "y.npy" }, atol = 1e-3, rtol = 1e-3 }\n'
    )
    return folder
