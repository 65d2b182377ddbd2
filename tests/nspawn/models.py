"""Model folders for the machine: digits under other version numbers, and one that takes as much memory as asked."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.system.digits import DIGITS


def digits_as(version: str, folder: Path) -> Path:
    """The same weights, so the same golden outputs, as another version."""
    shutil.copytree(DIGITS, folder)
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace('version = "1.0.0"', f'version = "{version}"', 1))
    return folder


def glutton(folder: Path) -> Path:
    """n → n zeros, in memory that is written: a request says how much a run takes."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["n"], ["zeros"], value=value),
            helper.make_node("ReduceSum", ["zeros"], ["y"], keepdims=1),
        ],
        "glutton",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "glutton.onnx"))
    np.save(folder / "n.npy", np.ones((1,), np.int64))
    np.save(folder / "y.npy", np.zeros((1,), np.float32))
    (folder / "model.toml").write_text(
        'name = "glutton"\nversion = "1.0.0"\nlicence = "none"\n'
        '[[inputs]]\nname = "n"\ndtype = "INT64"\nshape = [1]\n'
        '[[outputs]]\nname = "y"\ndtype = "FP32"\nshape = [1]\n'
        '[golden]\ncount = 1\ninputs = { n = "n.npy" }\n'
        '[[variants]]\nname = "fp32"\nformat = "onnx"\nprecision = "fp32"\ndevices = ["cpu"]\n'
        'accuracy = 1.0\nfile = "glutton.onnx"\ngolden = { outputs = { y = "y.npy" }, atol = 0.0, rtol = 0.0 }\n'
    )
    return folder
