"""What LiteRT's log says, read."""

from __future__ import annotations

import pytest

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.litert_log import adapter, errors, explained, notable, partial
from agent.errors import DeviceLost, DeviceMismatch, InferenceError, OutOfDeviceMemory

LINE = "I0000 00:00:1 12 environment.cc:532] Selected adapter: {}, arch={}, vendor={}, backend=Vulkan, adapterType={}"
RTX = LINE.format("NVIDIA GeForce RTX 4060", "ada", "nvidia", "Discrete GPU")
UHD = LINE.format("Intel(R) UHD, really", "gen-12lp", "intel", "Integrated GPU")
SOFT = LINE.format("llvmpipe (LLVM 15)", "", "mesa", "CPU / Software")
NVIDIA, SOFTWARE = Gpu("gpu0", "RTX 4060", "nvidia"), Gpu("gpu", "llvmpipe", software=True)


def test_the_adapter_that_was_selected_last() -> None:
    found = adapter(f"INFO: something\n{RTX}\nmore\n{UHD}\n")
    assert found is not None
    assert (found.name, found.vendor, found.software) == ("Intel(R) UHD, really", "intel", False)
    assert adapter("INFO: nothing\n") is None


@pytest.mark.parametrize(("line", "gpu"), [(RTX, NVIDIA), (SOFT, SOFTWARE), (UHD, Gpu("gpu", "card0"))])
def test_an_adapter_that_is_the_gpu(line: str, gpu: Gpu) -> None:
    chosen = adapter(line)
    assert chosen is not None
    chosen.check(gpu)


@pytest.mark.parametrize(
    ("line", "gpu", "text"),
    [
        (UHD, NVIDIA, r"took Intel\(R\) UHD, really \(intel\), not RTX 4060"),
        (SOFT, NVIDIA, r"only a software renderer \(llvmpipe \(LLVM 15\)\)"),
        (RTX, SOFTWARE, "NVIDIA GeForce RTX 4060, which is no software renderer"),
    ],
)
def test_an_adapter_that_is_another(line: str, gpu: Gpu, text: str) -> None:
    chosen = adapter(line)
    assert chosen is not None
    with pytest.raises(DeviceMismatch, match=text):
        chosen.check(gpu)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("E0000 00:00 1 environment.cc:105] WebGPU device lost: reason 2\n", DeviceLost),
        ("E0000 00:00 1 environment.cc:105] Validation error: [Device] is lost.\n", DeviceLost),
        ("E0000 00:00 1 environment.cc:105] vkQueueSubmit failed with VK_ERROR_DEVICE_LOST\n", DeviceLost),
        ("ERROR: [x.cc:1] INTERNAL: No adapters found\n", DeviceLost),
        ("E0000 00:00 1 environment.cc:105] Out of memory: vkAllocateMemory failed\n", OutOfDeviceMemory),
        (
            "E0000 00:00 1 environment.cc:105] Buffer size (9) exceeds the max buffer size limit (8).\n",
            OutOfDeviceMemory,
        ),
        ("E0000 00:00 1 environment.cc:105] Dispatch workgroup count X exceeds\n", InferenceError),
        ("", InferenceError),
    ],
)
def test_the_error_behind_a_log(text: str, kind: type[Exception]) -> None:
    found = explained(
        "m.tflite", NVIDIA, RuntimeError("code=1"), text, "it takes 7 MB", InferenceError, "failed"
    )
    assert type(found) is kind
    if kind is OutOfDeviceMemory:
        assert "RTX 4060 has no memory for m.tflite: it takes 7 MB" in str(found)


def test_operators_are_named_within_bounds() -> None:
    log = "ERROR: Following operations are not supported by GPU delegate:\n"
    log += "".join(f"OP{number}: {'x' * 300}.\n" for number in range(50))
    text = str(partial("m.tflite", log + "3 operations will run on the GPU, and the remaining 50"))
    assert "m.tflite: OP0: xxx" in text
    assert "and 45 more" in text
    assert len(text) < 700


def test_only_what_matters_is_passed_on() -> None:
    log = f"INFO: [a.cc:1] b\n{RTX}\n\nWARNING: Logging before InitGoogle()\nWARNING: [npu_registry.cc:34] none\n"
    assert notable(log) == []
    many = "W0000 00:00 1 x.cc:1] " + "slow " * 100
    assert notable(log + f"{many}\n" * 20) == [many[:300]] * 10


def test_a_graph_of_other_shapes_is_an_error() -> None:
    line = "W0000 00:00:1 1 gpu_model_builder.cc:3901] Shape mismatch in GpuModelBuilder::UpdateOutputTensors(conv)"
    assert errors(f"{RTX}\n{line}\n") == ["Shape mismatch in GpuModelBuilder::UpdateOutputTensors(conv)"]
    assert errors("W0000 00:00:1 1 x.cc:1] slow path\n") == []
