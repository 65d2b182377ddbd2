"""Failures that only one of the runtimes can have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices.cpu import CpuDevice
from agent.errors import DeviceMismatch, InferenceError, ModelLoadError
from agent.hal import ModelFile
from agent.types import TensorSpec
from tests.contract.tiny import onnx_double, tflite_double

X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))


def test_another_provider_than_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_double())
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda self: ["AzureExecutionProvider"]
    )
    with pytest.raises(DeviceMismatch, match=r"asked ONNX Runtime for CPUExecutionProvider, it runs .*Azure"):
        CpuDevice().open(ModelFile(path, "onnx", (X,), (Y,)), "onnxruntime")


def test_onnx_runtime_fails_on_the_values(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def info(name: str, kind: int, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        "gather",
        [info("table", TensorProto.FLOAT, [4]), info("index", TensorProto.INT64, [1])],
        [info("y", TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "gather.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    inputs = (TensorSpec("table", "FP32", (4,)), TensorSpec("index", "INT64", (1,)))
    session = CpuDevice().open(
        ModelFile(path, "onnx", inputs, (TensorSpec("y", "FP32", (1,)),)), "onnxruntime"
    )
    table = np.arange(4, dtype=np.float32)
    with pytest.raises(InferenceError, match=r"ONNX Runtime failed: .*Gather"):
        session.run({"table": table, "index": np.array([99])})
    assert session.run({"table": table, "index": np.array([3])}).outputs["y"].tolist() == [3.0]


def reshape_to_one_row() -> bytes:
    """A TFLite file that says any batch but reshapes to [1, 4]."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(tflite_double())
    (op,) = model.subgraphs[0].operators
    op.inputs, op.builtinOptionsType = [0], schema.BuiltinOptions.ReshapeOptions
    op.builtinOptions = schema.ReshapeOptionsT()
    op.builtinOptions.newShape = [1, 4]
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_litert_fails_to_resize_and_still_runs_the_batch_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(reshape_to_one_row())
    session = CpuDevice().open(ModelFile(path, "tflite", (X,), (Y,)), "litert")
    with pytest.raises(InferenceError, match="LiteRT failed"):
        session.run({"x": np.zeros((3, 4), np.float32)})
    assert session.run({"x": np.ones((1, 4), np.float32)}).outputs["y"].tolist() == [[1, 1, 1, 1]]


def test_litert_resizes_to_a_batch_that_the_manifest_fixes(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_double())
    x, y = TensorSpec("x", "FP32", (5, 4)), TensorSpec("y", "FP32", (5, 4))
    session = CpuDevice().open(ModelFile(path, "tflite", (x,), (y,)), "litert")
    assert session.run({"x": np.ones((5, 4), np.float32)}).outputs["y"].shape == (5, 4)


def test_an_operator_that_the_runtime_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_double().replace(b"Add", b"Zdd"))
    with pytest.raises(ModelLoadError, match="Zdd"):
        CpuDevice().open(ModelFile(path, "onnx", (X,), (Y,)), "onnxruntime")


def test_onnx_runtime_tells_nobody(tmp_path: Path) -> None:
    """Its own telemetry leaves a session file in the temporary folder as soon as a model is loaded."""
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_double())
    code = "import sys; from pathlib import Path; from agent.devices.onnx_cpu import load; load(Path(sys.argv[1]), 1)"
    environment = {
        key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")
    }
    environment["TMPDIR"] = str(tmp_path / "tmp")
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True, timeout=60)
    assert list((tmp_path / "tmp").iterdir()) == []
