"""A model with strings: which number a word has, the word itself, and a score for each of four numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WORDS = ("zero", "one", "two", "drei:3 é")
TOML = """\
name = "words"
version = "1.0.0"
description = "numbers of words"
licence = "Apache-2.0"

[[inputs]]
name = "word"
dtype = "BYTES"
shape = [-1, 1]

[[outputs]]
name = "echo"
dtype = "BYTES"
shape = [-1, 1]

[[outputs]]
name = "number"
dtype = "INT64"
shape = [-1, 1]

[[outputs]]
name = "scores"
dtype = "FP32"
shape = [-1, 4]

[golden]
count = 2
inputs = { word = "word.npy" }

[[variants]]
name = "onnx"
format = "onnx"
precision = "fp32"
devices = ["cpu"]
file = "words.onnx"
golden = { outputs = { echo = "echo.npy", number = "number.npy", scores = "scores.npy" }, atol = 0.0, rtol = 0.0 }
"""
SCORES = np.array([[9, 1, 0, 0], [1, 9, 1, 0], [0, 1, 9, 1], [0, 0, 1, 9]], np.float32) / 10


def make_words(path: Path, echo: tuple[str, str] = WORDS[2:]) -> Path:
    """The folder of a model that packs, unless ``echo``, its golden answer to the last two words, says otherwise."""
    path.mkdir(parents=True)
    np.save(path / "word.npy", np.array([[WORDS[2].encode()], [WORDS[3].encode()]]))
    np.save(path / "echo.npy", np.array([[word] for word in echo]))
    np.save(path / "number.npy", np.array([[2], [3]], np.int64))
    np.save(path / "scores.npy", SCORES[2:])
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["word"], ["echo"]),
            helper.make_node(
                "LabelEncoder",
                ["word"],
                ["number"],
                domain="ai.onnx.ml",
                keys_strings=[word.encode() for word in WORDS],
                values_int64s=list(range(len(WORDS))),
                default_int64=0,
            ),
            helper.make_node("Squeeze", ["number", "last"], ["index"]),
            helper.make_node("Gather", ["table", "index"], ["scores"]),
        ],
        "words",
        [helper.make_tensor_value_info("word", TensorProto.STRING, ["n", 1])],
        [
            helper.make_tensor_value_info("echo", TensorProto.STRING, ["n", 1]),
            helper.make_tensor_value_info("number", TensorProto.INT64, ["n", 1]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4]),
        ],
        [numpy_helper.from_array(SCORES, "table"), numpy_helper.from_array(np.array([1], np.int64), "last")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (path / "words.onnx").write_bytes(model.SerializeToString())
    (path / "model.toml").write_text(TOML)
    return path
