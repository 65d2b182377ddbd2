"""OpenVINO's execution provider, on the CPU in place of a GPU: a build of ONNX Runtime with a provider that keeps what
it compiles.

OpenVINO's CPU plugin in this wheel writes that, fails to read it back ("Unable to read the model") and compiles anew
without a word. So what is shown here is that it is kept in one place, told of once, and harmless when damaged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices import building
from agent.devices.cpu import CpuDevice
from agent.devices.gpu import onnx_gpu
from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.providers import installed_providers
from agent.errors import RuntimeUnavailable
from agent.hal import ModelFile
from agent.types import TensorSpec

MODELS = Path(__file__).parents[2] / "models"
CORES = Gpu("gpu", "this CPU", software=True)


def digits(variant: str, cache: Path | None = None) -> ModelFile:
    image, logits = TensorSpec("image", "FP32", (-1, 1, 8, 8)), TensorSpec("logits", "FP32", (-1, 10))
    return ModelFile(MODELS / "digits" / f"digits-{variant}.onnx", "onnx", (image,), (logits,), cache=cache)


def images(batch: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"image": np.random.default_rng(batch).random((batch, 1, 8, 8), np.float32)}


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "onnx").glob("*/*.blob"))


@pytest.fixture
def told() -> Any:
    heard: list[str] = []
    building.listen(heard.append)
    yield heard
    building.listen(None)


def test_it_is_installed_and_proved() -> None:
    assert "openvino" in installed_providers()
    assert onnx_gpu.prove(CORES, "openvino")


@pytest.mark.parametrize(("variant", "tolerance"), [("fp32", 1e-4), ("int8", 0.12)])  # two steps of INT8
def test_the_same_answers_as_on_the_cpu_for_any_batch(variant: str, tolerance: float) -> None:
    model = digits(variant)
    cpu = CpuDevice().open(model, "onnxruntime")
    session = onnx_gpu.open_session(model, CORES, "openvino")
    for batch in (1, 5, 2, 1):
        got: Any = session.run(images(batch)).outputs["logits"]
        want: Any = cpu.run(images(batch)).outputs["logits"]
        np.testing.assert_allclose(got, want, atol=tolerance)


def test_what_it_compiles_is_kept_in_one_place_and_told_of_once(tmp_path: Path, told: list[str]) -> None:
    for _ in range(2):
        onnx_gpu.open_session(digits("fp32", tmp_path), CORES, "openvino").close()
        assert len(kept(tmp_path)) == 1
    assert told == ["the OpenVINO kernels of digits-fp32.onnx, once for this driver"]
    onnx_gpu.open_session(digits("int8", tmp_path), CORES, "openvino").close()
    assert len({path.parent for path in kept(tmp_path)}) == 2


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100])
def test_a_damaged_one_does_no_harm(tmp_path: Path, damage: bytes) -> None:
    model = digits("fp32", tmp_path)
    before = onnx_gpu.open_session(model, CORES, "openvino").run(images(1)).outputs["logits"]
    (blob,) = kept(tmp_path)
    good = blob.stat().st_size
    blob.write_bytes(damage)
    after = onnx_gpu.open_session(model, CORES, "openvino").run(images(1)).outputs["logits"]
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    (blob,) = kept(tmp_path)
    assert blob.stat().st_size > good // 2


def test_without_a_gpu_its_own_reason_is_given() -> None:
    """ONNX Runtime would go on with the CPU; the reason only stands in its log."""
    with pytest.raises(
        RuntimeUnavailable,
        match=r"OpenVINOExecutionProvider does not start: \[OpenVINO\] Device GPU is not available",
    ):
        onnx_gpu.prove(Gpu("gpu", "Arc A770", "intel"), "openvino")


def test_cuda_is_not_in_this_build() -> None:
    with pytest.raises(RuntimeUnavailable, match="has no CUDAExecutionProvider; pip install"):
        onnx_gpu.prove(Gpu("gpu", "RTX 4090", "nvidia"), "cuda")
