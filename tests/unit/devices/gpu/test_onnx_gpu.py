"""What every provider's session does, whatever the GPU: binding, keeping engines, missing providers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices import building
from agent.devices.gpu import assignment, onnx_gpu
from agent.devices.gpu.binding import Binding
from agent.devices.gpu.enginecache import Kept
from agent.devices.gpu.gpus import Gpu
from agent.devices.onnx_cpu import load
from agent.errors import DeviceMismatch, InferenceError, ModelLoadError, OutOfDeviceMemory, RuntimeUnavailable
from agent.hal import ModelFile
from agent.types import TensorSpec
from tests.contract.tiny import onnx_double

NVIDIA = Gpu("gpu", "RTX 4090", "nvidia", "0000:01:00.0")
X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_double())
    return ModelFile(path, "onnx", (X,), (Y,), cache=tmp_path / "engines")


def test_the_proof_is_a_convolution_with_the_answer_that_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "proof.onnx"
    path.write_bytes(onnx_gpu.PROOF)
    (y,) = load(path, 1).run(None, {"x": np.ones((2, 1, 4, 4), np.float32)})
    assert y.tolist() == np.broadcast_to(onnx_gpu.PROVED, (2, 1, 4, 4)).tolist()


def test_bound_tensors_of_any_batch_size(model: ModelFile) -> None:
    binding = Binding(load(model.path, 1), (X,), (Y,), "cpu", 0)
    for batch in (2, 2, 5, 1, 2):
        x = np.random.default_rng(batch).random((batch, 4), np.float32)
        (y,) = binding.run({"x": x}, batch)
        np.testing.assert_array_equal(y, 2 * x)


def test_bound_tensors_of_a_fixed_size(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_double((3, 4), "INT32"))
    x, y = TensorSpec("x", "INT32", (3, 4)), TensorSpec("y", "INT32", (3, 4))
    binding = Binding(load(path, 1), (x,), (y,), "cpu", 0)
    for number in range(3):
        (got,) = binding.run({"x": np.full((3, 4), number, np.int32)}, 1)
        assert got.tolist() == np.full((3, 4), 2 * number).tolist()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "migraphx", "tensorrt-rtx"])
def test_an_onnx_runtime_without_the_provider(model: ModelFile, provider: str) -> None:
    with pytest.raises(
        RuntimeUnavailable, match=r"has no \w+ExecutionProvider; pip install .+, in place of other"
    ):
        onnx_gpu.open_session(model, NVIDIA, provider)
    with pytest.raises(RuntimeUnavailable, match="has no"):
        onnx_gpu.prove(NVIDIA, provider)


def test_a_runtime_that_silently_takes_the_cpu(model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with the provider whose libraries are missing: ONNX Runtime opens the model on the CPU."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.raises(RuntimeUnavailable, match="CUDAExecutionProvider does not start"):
        onnx_gpu.open_session(model, NVIDIA, "cuda")


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Sessions of the CPU's provider in place of TensorRT's, which leave an engine; whether each found one before."""
    made: list[bool] = []

    def create(path: Path, gpu: Gpu, provider: str, setup: Any, profile: Path | None = None) -> Any:
        assert setup.folder is not None
        engine = setup.folder / "m.engine"
        made.append(engine.exists())
        if engine.exists() and engine.read_bytes() != b"good":
            raise RuntimeError(
                "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not deserialize engine from cache"
            )
        engine.write_bytes(b"good")
        return load(path, 1)

    monkeypatch.setattr(onnx_gpu, "create", create)
    monkeypatch.setattr(assignment, "check", lambda nodes, ep, same_gpu: None)
    monkeypatch.setattr(assignment, "recorded", lambda session: (assignment.Node("E", "Add", ""),))
    monkeypatch.setattr(
        onnx_gpu, "Binding", lambda session, inputs, outputs, *_: Binding(session, inputs, outputs, "cpu", 0)
    )
    return made


def announced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(building, "announce", told.append)
    return told


def engines(model: ModelFile) -> list[Path]:
    assert model.cache is not None
    return list((model.cache / "onnx").glob("*/m.engine"))


def test_an_engine_is_built_once_and_announced(model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = on_the_cpu(monkeypatch), announced(monkeypatch)
    for _ in range(2):
        session = onnx_gpu.open_session(model, NVIDIA, "tensorrt")
        assert session.run({"x": np.ones((1, 4), np.float32)}).outputs["y"].tolist() == [[2.0] * 4]
    assert made == [False, True]
    assert told == ["the TensorRT engine of m.onnx, once for this driver"]
    assert len(engines(model)) == 1


def test_batches_of_another_size_are_announced_once(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_cpu(monkeypatch)
    session = onnx_gpu.open_session(model, NVIDIA, "tensorrt")
    told = announced(monkeypatch)
    for batch in (1, 4, 4, 1):
        session.run({"x": np.ones((batch, 4), np.float32)})
    assert told == ["the TensorRT engine of m.onnx for batches of 4, once for this driver"]


def test_a_damaged_engine_is_built_again(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, told = on_the_cpu(monkeypatch), announced(monkeypatch)
    onnx_gpu.open_session(model, NVIDIA, "tensorrt")
    engines(model)[0].write_bytes(b"bad")
    with caplog.at_level(logging.WARNING):
        onnx_gpu.open_session(model, NVIDIA, "tensorrt")
    assert made == [False, True, False]
    assert len(told) == 2
    assert "could not deserialize" in caplog.text
    assert engines(model)[0].read_bytes() == b"good"


def test_another_model_driver_or_gpu_has_another_engine(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_cpu(monkeypatch)
    onnx_gpu.open_session(model, NVIDIA, "tensorrt")
    onnx_gpu.open_session(model, Gpu("gpu", "RTX 5090", "nvidia"), "tensorrt")
    monkeypatch.setattr(onnx_gpu, "driver_version", lambda driver: "560")
    onnx_gpu.open_session(model, NVIDIA, "tensorrt")
    model.path.write_bytes(onnx_double(("batch", 4)))
    onnx_gpu.open_session(model, NVIDIA, "tensorrt")
    assert len(engines(model)) == 4


def test_a_folder_that_cannot_be_written_costs_the_cache_only(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert model.cache is not None
    model.cache.write_text("a file")  # even root cannot make a folder there
    kept: list[Kept | None] = []
    monkeypatch.setattr(onnx_gpu, "OnnxGpuSession", lambda model, gpu, provider, folder: kept.append(folder))
    with caplog.at_level(logging.WARNING):
        onnx_gpu.open_session(model, NVIDIA, "tensorrt")
    assert kept == [None]
    assert "every time" in caplog.text


def fails_on_zeros(path: Path) -> ModelFile:
    """y = table[index - 99]: zeros are out of its bounds."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["index", "far"], ["at"]),
            helper.make_node("Gather", ["table", "at"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("table", TensorProto.FLOAT, [4]),
            helper.make_tensor_value_info("index", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("far", TensorProto.INT64, [1], [99])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    inputs = (TensorSpec("table", "FP32", (4,)), TensorSpec("index", "INT64", (1,)))
    return ModelFile(path, "onnx", inputs, (TensorSpec("y", "FP32", (1,)),), cache=path.parent / "engines")


def test_a_model_that_fails_on_zeros_only_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cpu(monkeypatch)
    session = onnx_gpu.open_session(fails_on_zeros(tmp_path / "m.onnx"), NVIDIA, "tensorrt")
    tensors = {"table": np.arange(4, dtype=np.float32), "index": np.array([101])}
    assert session.run(tensors).outputs["y"].tolist() == [2.0]
    with pytest.raises(InferenceError, match="failed on RTX 4090"):
        session.run({**tensors, "index": np.array([0])})


def test_a_profile_that_cannot_be_read_tells_nothing(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime before 1.24 writes nodes' names into it as they are, quotes included."""
    on_the_cpu(monkeypatch)
    monkeypatch.setattr(assignment, "recorded", lambda session: ())

    def profile_run(*_: Any) -> Any:
        raise ValueError("Expecting ',' delimiter: line 3 column 70 (char 193)")

    monkeypatch.setattr(onnx_gpu, "profile_run", profile_run)
    with pytest.raises(ModelLoadError, match=r"m\.onnx .+ delimiter.+ install onnxruntime >= 1\.24"):
        onnx_gpu.open_session(model, NVIDIA, "tensorrt")


def test_memory_that_is_full_when_the_model_first_runs(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Binding):
        def run(self, tensors: Any, batch: int) -> Any:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 8388608")

    on_the_cpu(monkeypatch)
    monkeypatch.setattr(onnx_gpu, "Binding", Full)
    with pytest.raises(OutOfDeviceMemory, match=r"RTX 4090 has too little memory for .+ \(8\.4 MB wanted\)"):
        onnx_gpu.open_session(model, NVIDIA, "tensorrt")


def test_a_file_that_is_empty_or_gone(model: ModelFile) -> None:
    model.path.write_bytes(b"")
    for provider in ("tensorrt", "cuda"):
        with pytest.raises(ModelLoadError, match=r"m\.onnx cannot be read"):
            onnx_gpu.open_session(model, NVIDIA, provider)
    model.path.unlink()
    with pytest.raises(ModelLoadError, match="cannot be read"):
        onnx_gpu.open_session(model, NVIDIA, "tensorrt")


def test_strings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
        ).SerializeToString()
    )
    monkeypatch.setattr(onnx_gpu, "create", lambda path, gpu, provider, setup, profile: load(path, 1))
    x, y = TensorSpec("x", "BYTES", (1,)), TensorSpec("y", "BYTES", (1,))
    with pytest.raises(DeviceMismatch, match="'x' holds strings"):
        onnx_gpu.open_session(ModelFile(path, "onnx", (x,), (y,)), NVIDIA, "cuda")
