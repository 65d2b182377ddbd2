"""The execution providers of ONNX Runtime that run models on a GPU: what each is called, wants and keeps.

Sources of the options' names: onnxruntime.ai/docs/execution-providers, and for each provider the file in ONNX Runtime
that parses them (``onnxruntime/core/providers/<name>/*_provider_options.h`` and ``*_execution_provider_info.cc``).
What a model computes with is left as it was made: no provider is asked for less than its precision.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.devices.gpu.gpus import Gpu
from agent.errors import RuntimeUnavailable

VENDOR_IDS = {"nvidia": 0x10DE, "amd": 0x1002, "intel": 0x8086, "arm": 0x13B5, "qualcomm": 0x5143}  # of PCI


@dataclass(frozen=True, slots=True)
class Setup:
    """What a session's options depend on. ``folder``: where the provider keeps what it builds, None: nowhere.

    ``quantized``: the model has QuantizeLinear or DequantizeLinear. ``threads``: for a stand-in on the CPU.
    """

    folder: Path | None = None
    quantized: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Provider:
    """``ep``: ONNX Runtime's name. ``package``: the one that brings it as a plugin, where there is one.

    ``vendors``: whose GPUs it runs on; empty: anybody's. ``same_gpu``: other providers (our names) that run on the same
    GPU and may take nodes. ``memory``: the name of its memory for I/O binding, "cpu" when ONNX Runtime has no public
    one. ``engine``: what it builds for seconds or minutes when it loads a model; empty when loading is all.
    ``per_batch``: and when it first runs a batch of another size.
    """

    ep: str
    install: str
    options: Callable[[Gpu, Setup], dict[str, str]]
    vendors: tuple[str, ...] = ()
    package: str = ""
    same_gpu: tuple[str, ...] = ()
    memory: str = "cpu"
    engine: str = ""
    per_batch: bool = False


def _cuda(gpu: Gpu, _: Setup) -> dict[str, str]:
    return {
        "device_id": str(gpu.index),
        # The default tries every algorithm of cuDNN on every convolution: seconds to minutes of loading.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles what it holds; the other programs on the GPU need memory too.
        "arena_extend_strategy": "kSameAsRequested",
    }


def _tensorrt(gpu: Gpu, setup: Setup) -> dict[str, str]:
    options = {"device_id": str(gpu.index), "trt_fp16_enable": "0"}
    if (
        setup.quantized
    ):  # TensorRT refuses Q and DQ nodes without; it takes their scales and calibrates nothing
        options["trt_int8_enable"] = "1"
    if setup.folder is not None:
        options |= {
            "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(setup.folder),
            "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(setup.folder),
        }  # fmt: skip
    return options


def _tensorrt_rtx(_: Gpu, setup: Setup) -> dict[str, str]:
    return {} if setup.folder is None else {"nv_runtime_cache_path": str(setup.folder)}


def _openvino(gpu: Gpu, setup: Setup) -> dict[str, str]:
    # Its default on GPUs is FP16.
    options = {"precision": "ACCURACY"}
    if setup.folder is not None:
        options["cache_dir"] = str(setup.folder)
    if gpu.software:
        return {**options, "device_type": "CPU", "num_of_threads": str(setup.threads)}
    return {**options, "device_type": f"GPU.{gpu.index}" if gpu.index else "GPU"}


def _rocm(gpu: Gpu, _: Setup) -> dict[str, str]:
    return {"device_id": str(gpu.index), "arena_extend_strategy": "kSameAsRequested"}


def _migraphx(gpu: Gpu, setup: Setup) -> dict[str, str]:
    options = {"device_id": str(gpu.index), "migraphx_fp16_enable": "0", "migraphx_int8_enable": "0"}
    if setup.folder is not None:
        options["migraphx_model_cache_dir"] = str(setup.folder)
    return options


def _webgpu(_: Gpu, __: Setup) -> dict[str, str]:
    return {}


PROVIDERS: Mapping[str, Provider] = {
    "cuda": Provider(
        "CUDAExecutionProvider", "pip install 'onnxruntime-gpu[cuda,cudnn]'", _cuda, ("nvidia",), memory="cuda"
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider", "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt", _tensorrt, ("nvidia",),
        same_gpu=("cuda",), memory="cuda", engine="TensorRT engine", per_batch=True,
    ),
    "tensorrt-rtx": Provider(
        "NvTensorRTRTXExecutionProvider", "pip install onnxruntime-ep-nv-tensorrt-rtx", _tensorrt_rtx, ("nvidia",),
        package="onnxruntime_ep_nv_tensorrt_rtx", engine="TensorRT RTX engine",
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider", "pip install onnxruntime-openvino", _openvino, ("intel",),
        package="onnxruntime_ep_openvino", engine="OpenVINO kernels",
    ),
    # The last release with it is ONNX Runtime 1.22; MIGraphX takes its place.
    "rocm": Provider("ROCMExecutionProvider", "pip install onnxruntime-rocm", _rocm, ("amd",)),
    "migraphx": Provider(
        "MIGraphXExecutionProvider", "pip install onnxruntime-migraphx", _migraphx, ("amd",), engine="MIGraphX program",
        per_batch=True,
    ),
    "webgpu": Provider(
        "WebGpuExecutionProvider", "pip install onnxruntime onnxruntime-ep-webgpu", _webgpu,
        package="onnxruntime_ep_webgpu",
    ),
}  # fmt: skip


def find(name: str) -> Provider:
    """RuntimeUnavailable for a provider that nobody knows."""
    if name not in PROVIDERS:
        raise RuntimeUnavailable(f"there is no provider {name!r}; there are {', '.join(PROVIDERS)}")
    return PROVIDERS[name]


def installed_providers() -> tuple[str, ...]:
    """Names of those that the installed ONNX Runtime was built with or has a plugin for. Imports it.

    None of them need work: libraries, a driver or the GPU may be missing. Raises ImportError without ONNX Runtime.
    """
    import onnxruntime

    built_in = set(onnxruntime.get_available_providers())
    plugins = hasattr(onnxruntime, "register_execution_provider_library")  # since 1.23
    return tuple(
        name
        for name, provider in PROVIDERS.items()
        if provider.ep in built_in or (plugins and has_plugin(provider))
    )


def has_plugin(provider: Provider) -> bool:
    """Whether its package is installed."""
    return bool(provider.package) and importlib.util.find_spec(provider.package) is not None


def plugin_library(provider: Provider) -> str:
    """Path of the plugin's shared library; its package's own errors."""
    return str(importlib.import_module(provider.package).get_library_path())


def choose(devices: Sequence[Any], gpu: Gpu, ep: str) -> Any:
    """The plugin's device (``onnxruntime.OrtEpDevice``) that is this GPU; RuntimeUnavailable when none is.

    By PCI address where the runtime tells it, else the ``gpu.index``-th of the vendor's.
    """
    mine = [device for device in devices if device.ep_name == ep]
    if gpu.software:
        if mine:
            return mine[0]
        raise RuntimeUnavailable(f"{ep} offers no device that stands in for a GPU")
    gpus = [device for device in mine if str(device.device.type).endswith("GPU")]
    for device in gpus:
        if gpu.pci and gpu.pci in dict(device.device.metadata).values():
            return device
    vendor = VENDOR_IDS.get(gpu.vendor)
    same = [device for device in gpus if vendor is None or device.device.vendor_id == vendor]
    if gpu.index < len(same):
        return same[gpu.index]
    raise RuntimeUnavailable(
        f"{ep} does not see {gpu.name}; it sees {len(mine)} device{'' if len(mine) == 1 else 's'}. "
        "Is the GPU's driver installed, and may this user open /dev/dri/renderD*?"
    )
