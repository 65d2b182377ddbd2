"""ONNX Runtime's WebGPU provider, for which a software Vulkan renderer stands in: a process of its own runs it."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from agent.devices.cpu import CpuDevice
from agent.devices.gpu import onnx_gpu
from agent.devices.gpu.gpus import Gpu
from agent.errors import DeviceMismatch, InferenceError, ModelLoadError, RuntimeUnavailable, TensorError
from agent.hal import ModelFile
from agent.types import TensorSpec
from tests.contract.tiny import onnx_double

SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
MODELS = Path(__file__).parents[4] / "models"
SOFTWARE = Gpu("gpu", "a software renderer", software=True)
X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_ep_webgpu") is None,
    reason="onnxruntime-ep-webgpu has no wheel for this Python",
)


def begin(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def process(folder: Path) -> ProcessPoolExecutor:
    variables = {"VK_ICD_FILENAMES": str(SWIFTSHADER), "XDG_RUNTIME_DIR": str(folder)}
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin, (variables,))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """``there(function, *arguments)``: in the process with the renderer."""
    if not SWIFTSHADER.exists():
        pytest.skip("no SwiftShader here: apt-get install chromium")
    with process(tmp_path_factory.mktemp("runtime")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=120)


def digits(name: str, variant: str) -> ModelFile:
    size = 64 if name == "camera-digits" else 8
    image = TensorSpec("image", "FP32", (-1, 1, size, size))
    path = MODELS / name / f"{name}-{variant}.onnx"
    return ModelFile(path, "onnx", (image,), (TensorSpec("logits", "FP32", (-1, 10)),))


def images(model: ModelFile, batch: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(batch).random(model.inputs[0].concrete(batch), np.float32)


def answers(model: ModelFile, batches: list[int]) -> list[np.ndarray[Any, Any]]:
    session = onnx_gpu.open_session(model, SOFTWARE, "webgpu")
    return [np.asarray(session.run({"image": images(model, each)}).outputs["logits"]) for each in batches]


def test_the_proof_tells_both_versions(there: Callable[..., Any]) -> None:
    assert "onnxruntime-ep-webgpu" in there(onnx_gpu.prove, SOFTWARE, "webgpu")


@pytest.mark.parametrize("name", ["digits", "camera-digits"])
def test_the_same_answers_as_on_the_cpu_for_any_batch(there: Callable[..., Any], name: str) -> None:
    model, batches = digits(name, "fp32"), [1, 5, 2, 1]
    cpu = CpuDevice().open(model, "onnxruntime")
    for batch, got in zip(batches, there(answers, model, batches), strict=True):
        want = cpu.run({"image": images(model, batch)}).outputs["logits"]
        np.testing.assert_allclose(got, np.asarray(want), rtol=1e-3, atol=1e-3)


def test_operators_that_it_leaves_to_the_cpu_are_named(there: Callable[..., Any]) -> None:
    with pytest.raises(
        DeviceMismatch,
        match=r"WebGpuExecutionProvider leaves QuantizeLinear x \d+ \(image_QuantizeLinear, .+ to CPUExecution",
    ):
        there(answers, digits("digits", "int8"), [1])


def test_a_file_that_is_no_model(there: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelLoadError, match=r"does not load m\.onnx with WebGpu"):
        there(answers, ModelFile(path, "onnx", (X,), (Y,)), [1])


def test_another_model_than_the_manifest_promises(there: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_double())
    with pytest.raises(ModelLoadError, match="the manifest promises inputs"):
        there(answers, ModelFile(path, "onnx", (TensorSpec("z", "FP32", (-1, 4)),), (Y,)), [1])


def misuse(path: Path) -> tuple[str, str]:
    session = onnx_gpu.open_session(ModelFile(path, "onnx", (X,), (Y,)), SOFTWARE, "webgpu")
    with pytest.raises(TensorError) as wrong:
        session.run({"x": np.zeros((1, 5), np.float32)})
    session.close()
    with pytest.raises(InferenceError) as closed:
        session.run({"x": np.zeros((1, 4), np.float32)})
    return str(wrong.value), str(closed.value)


def test_wrong_tensors_and_a_closed_session(there: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_double())
    wrong, closed = there(misuse, path)
    assert "wanted FP32 [any, 4]" in wrong
    assert "closed" in closed


def test_without_a_gpu_the_renderer_is_not_taken_for_one(tmp_path: Path) -> None:
    with process(tmp_path) as pool, pytest.raises(RuntimeUnavailable, match=r"does not see a Mali; .*driver"):
        pool.submit(onnx_gpu.prove, Gpu("gpu", "a Mali", "arm"), "webgpu").result(timeout=120)


def with_a_gpu_but_its_driver() -> str:
    """As where the kernel shows a GPU, and Vulkan only has the renderer."""
    os.environ["ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"] = "1"
    with mock.patch(
        "agent.devices.gpu.onnx_create.choose",
        lambda devices, gpu, ep: next(each for each in devices if each.ep_name == ep),
    ):
        return onnx_gpu.prove(Gpu("gpu", "a Mali", "arm"), "webgpu")


def test_a_gpu_without_vulkan_is_not_replaced_by_the_renderer(tmp_path: Path) -> None:
    with process(tmp_path) as pool, pytest.raises(RuntimeUnavailable, match=r"No supported adapters"):
        pool.submit(with_a_gpu_but_its_driver).result(timeout=120)


def test_among_several_gpus_it_would_choose_by_itself(tmp_path: Path) -> None:
    with process(tmp_path) as pool, pytest.raises(RuntimeUnavailable, match="does not say which"):
        pool.submit(onnx_gpu.prove, Gpu("gpu1", "an Arc", "intel"), "webgpu").result(timeout=120)
