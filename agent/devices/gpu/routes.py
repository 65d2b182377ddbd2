"""The routes to a GPU: runtimes that can run models on it.

This module is light; a runtime is imported when a model is opened or a route proved.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.devices.gpu.gpus import Gpu
from agent.hal import ModelFile, Session


@dataclass(frozen=True, slots=True)
class Route:
    """``prove`` gives the runtime's version, or raises whatever is wrong. ``packages``: any of them provides it;
    ``extra`` installs one. ``vendors``: whose GPUs it runs on; empty: anybody's, and software that plays one.
    ``provider``: it is one of ONNX Runtime's, and there only where the build that is installed has it."""

    formats: tuple[str, ...]
    open: Callable[[ModelFile, Gpu], Session]
    prove: Callable[[Gpu], str]
    packages: tuple[str, ...]
    extra: str
    vendors: tuple[str, ...] = ()
    provider: bool = False

    @property
    def installed(self) -> bool:
        """Whether one of its packages is there, importable or not."""
        return any(importlib.util.find_spec(package) for package in self.packages)


def _open_opencl(model: ModelFile, gpu: Gpu) -> Session:
    from agent.devices.gpu.opencl_gpu import open_session

    return open_session(model, gpu)


def _prove_opencl(gpu: Gpu) -> str:
    from agent.devices.gpu.opencl_gpu import prove

    return prove(gpu)


def _open_litert(model: ModelFile, gpu: Gpu) -> Session:
    from agent.devices.gpu.litert_gpu import open_session

    return open_session(model, gpu)


def _prove_litert(gpu: Gpu) -> str:
    from agent.devices.gpu.litert_gpu import prove

    return prove(gpu)


def _open_onnx(provider: str, model: ModelFile, gpu: Gpu) -> Session:
    from agent.devices.gpu.onnx_gpu import open_session

    return open_session(model, gpu, provider)


def _prove_onnx(provider: str, gpu: Gpu) -> str:
    from agent.devices.gpu.onnx_gpu import prove

    return prove(gpu, provider)


def _provider(name: str, *vendors: str) -> Route:
    return Route(
        ("onnx",), functools.partial(_open_onnx, name), functools.partial(_prove_onnx, name),
        ("onnxruntime",), "onnx", vendors, provider=True,
    )  # fmt: skip


ROUTES: Mapping[str, Route] = {
    "cuda": _provider("cuda", "nvidia"),
    "tensorrt": _provider("tensorrt", "nvidia"),
    "openvino": _provider("openvino", "intel"),
    "rocm": _provider("rocm", "amd"),
    "migraphx": _provider("migraphx", "amd"),
    "webgpu": _provider("webgpu"),
    "litert": Route(("tflite",), _open_litert, _prove_litert, ("ai_edge_litert",), "litert"),
    "opencl": Route(("npu",), _open_opencl, _prove_opencl, ("pyopencl",), "opencl"),
}


def routes_to(gpu: Gpu) -> dict[str, Route]:
    """Those that could run on this GPU."""
    return {name: route for name, route in ROUTES.items() if not route.vendors or _made_by(gpu, route)}


def _made_by(gpu: Gpu, route: Route) -> bool:
    return not gpu.software and (not gpu.vendor or gpu.vendor in route.vendors)
