"""What ONNX Runtime says about a GPU, in its words, and what is made of it."""

from __future__ import annotations

import pytest

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.onnx_errors import failure, is_providers, plain, reason, run_failure, swallowed
from agent.errors import DeviceLost, InferenceError, OutOfDeviceMemory

NVIDIA = Gpu("gpu", "RTX 4090", "nvidia")
ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, Stream*) "
    "Failed to allocate memory for requested buffer of size 536870912"
)
CUDA_LOG = (
    "\x1b[0;93m2026-11-21 17:03:29.65 [W:onnxruntime:Default, state.cc:856 operator()] No registered device\x1b[m\n"
    "\x1b[1;31m2026-11-21 17:03:29.66 [E:onnxruntime:Default, bridge.cc:2458 operator()] /src/x.cc:2043 "
    "onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
    "/a/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such file\n"
    "\x1b[m\n"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ARENA, r"running the model \(536\.9 MB wanted\)"),
        (
            "Available memory of 1048576 is smaller than requested bytes of 4194304",
            r"\(4\.2 MB wanted, 1\.0 MB left\)",
        ),
        (
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=box ; expr=cudaMalloc(&p, size)",
            "too little memory for",
        ),
        ("HIP failure 2: out of memory", "too little memory"),
        ("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED", "too little memory"),
    ],
)
def test_memory_that_is_full(text: str, said: str) -> None:
    found = failure(RuntimeError(text), NVIDIA, "running the model")
    assert isinstance(found, OutOfDeviceMemory)
    with pytest.raises(OutOfDeviceMemory, match=said):
        raise found
    assert "RTX 4090" in str(found)
    assert "smaller batches" in str(found)


def test_how_much_there_is_where_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.devices.gpu.onnx_errors.gpu_memory_mb", lambda gpu, device: 24_000)
    assert "(536.9 MB wanted, 24000 MB in all)" in str(failure(RuntimeError(ARENA), NVIDIA, "loading m.onnx"))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
        "CUDA failure 719: unspecified launch failure",
        "CUDA error cudaErrorLaunchFailure: unspecified launch failure",
        "WebGPU device lost (2): A valid external Instance reference no longer exists.",
        "vkQueueSubmit failed with VK_ERROR_DEVICE_LOST",
        "CUDA failure 100: no CUDA-capable device is detected",
    ],
)
def test_a_gpu_that_is_gone(text: str) -> None:
    assert isinstance(run_failure(RuntimeError(text), NVIDIA), DeviceLost)


@pytest.mark.parametrize(
    "text",
    [
        "indices element out of data bounds, idx=99",
        "CUDA failure 209: no kernel image is available",
        "failure 2",
    ],
)
def test_what_is_the_models_own_fault(text: str) -> None:
    assert failure(RuntimeError(text), NVIDIA, "loading m.onnx") is None
    found = run_failure(RuntimeError(text), NVIDIA)
    assert isinstance(found, InferenceError)
    assert text in str(found)


def test_the_reason_is_the_first_error_logged_without_where_it_stands() -> None:
    assert reason(CUDA_LOG) == (
        "Failed to load library /a/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: "
        "cannot open shared object file: No such file"
    )
    assert reason("something else\n") == ""


def test_a_provider_that_fails_to_start_is_told_from_a_model_that_does_not_load() -> None:
    text = (
        "/src/ep.cc:71 CreateProvider(const OrtSessionOptions&, const OrtLogger&) Error creating execution provider: "
        "[ONNXRuntimeError] : 11 : EP_FAIL : /src/webgpu_context.cc:136 Initialize()::<lambda()> status == Success was "
        "false. Failed to get a WebGPU adapter: No supported adapters\n\n"
    )
    assert is_providers(RuntimeError(text))
    assert plain(text) == "Failed to get a WebGPU adapter: No supported adapters"
    assert not is_providers(
        RuntimeError("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.")
    )


def test_what_an_old_onnx_runtime_prints_before_it_takes_the_cpu() -> None:
    printed = (
        "*************** EP Error ***************\n"
        "EP Error /src/openvino_execution_provider.cc:95 Constructor(const ProviderInfo&) [ERROR] [OpenVINO] "
        "Specified device - GPU is not available\n when using [('OpenVINOExecutionProvider', {'device_type': 'GPU'})]\n"
        "Falling back to ['CPUExecutionProvider'] and retrying.\n"
    )
    assert plain(swallowed(printed)) == "[OpenVINO] Specified device - GPU is not available"
    assert is_providers(RuntimeError(swallowed(printed)))
    assert swallowed("Skip loading CUDA and cuDNN DLLs since torch is imported.\n") == ""
