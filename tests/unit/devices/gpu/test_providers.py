"""What each execution provider is asked for, and which device of a plugin is meant."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.providers import PROVIDERS, Setup, choose, find, installed_providers
from agent.errors import RuntimeUnavailable

FOLDER = Path("/state/engines/abc")
SECOND = Gpu("gpu1", "second", "nvidia", "0000:02:00.0", index=1)


def test_the_gpu_is_named_by_its_number() -> None:
    for name in ("cuda", "tensorrt", "rocm", "migraphx"):
        assert find(name).options(SECOND, Setup())["device_id"] == "1"
    assert find("openvino").options(Gpu("gpu", "first"), Setup())["device_type"] == "GPU"
    assert find("openvino").options(SECOND, Setup())["device_type"] == "GPU.1"


def test_no_provider_computes_with_less_than_the_model_asks_for() -> None:
    for name, provider in PROVIDERS.items():
        options = provider.options(SECOND, Setup(FOLDER))
        assert all(value != "1" for key, value in options.items() if "fp16" in key or "int8" in key), name
    assert find("openvino").options(SECOND, Setup())["precision"] == "ACCURACY"


def test_what_builds_engines_keeps_them_where_it_is_told() -> None:
    for name, provider in PROVIDERS.items():
        options = provider.options(SECOND, Setup(FOLDER))
        assert bool(provider.engine) == (str(FOLDER) in options.values()), name
        assert str(FOLDER) not in provider.options(SECOND, Setup()).values()


def test_tensorrt_takes_int8_from_quantized_models_only() -> None:
    assert "trt_int8_enable" not in find("tensorrt").options(SECOND, Setup())
    assert find("tensorrt").options(SECOND, Setup(quantized=True))["trt_int8_enable"] == "1"


def test_openvino_stands_in_on_the_cpu_with_the_models_threads() -> None:
    options = find("openvino").options(Gpu("gpu", "cores", software=True), Setup(threads=2))
    assert (options["device_type"], options["num_of_threads"]) == ("CPU", "2")


def test_a_provider_that_nobody_knows() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"no provider 'directml'; there are cuda, tensorrt"):
        find("directml")


def test_those_installed_are_those_that_onnx_runtime_or_a_plugin_brings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime

    before = installed_providers()
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert set(installed_providers()) == {"cuda", *before}
    assert "cuda" not in before


def device(kind: str, vendor: int, ep: str = "WebGpuExecutionProvider", **metadata: str) -> Any:
    hardware = SimpleNamespace(type=f"OrtHardwareDeviceType.{kind}", vendor_id=vendor, metadata=metadata)
    return SimpleNamespace(ep_name=ep, device=hardware)


def test_a_plugins_device_is_found_by_address_then_by_vendor_and_number() -> None:
    intel, first, second = device("GPU", 0x8086), device("GPU", 0x10DE), device("GPU", 0x10DE)
    known = device("GPU", 0x10DE, pci_bus_id="0000:02:00.0")
    found = [device("CPU", 0x8086), intel, first, second, device("GPU", 0x10DE, ep="other")]
    assert choose(found, SECOND, "WebGpuExecutionProvider") is second
    assert choose([known, *found], SECOND, "WebGpuExecutionProvider") is known
    assert choose(found, Gpu("gpu", "an Arc", "intel"), "WebGpuExecutionProvider") is intel
    assert choose(found, Gpu("gpu", "of nobody"), "WebGpuExecutionProvider") is intel


def test_a_plugins_cpu_device_is_taken_for_stand_ins_only() -> None:
    cores = device("CPU", 0x1022)
    assert choose([cores], Gpu("gpu", "cores", software=True), "WebGpuExecutionProvider") is cores
    with pytest.raises(RuntimeUnavailable, match=r"does not see second; it sees 1 device\. .*renderD"):
        choose([cores], SECOND, "WebGpuExecutionProvider")
    with pytest.raises(RuntimeUnavailable, match="stands in"):
        choose([], Gpu("gpu", "cores", software=True), "WebGpuExecutionProvider")
