"""The routes to a GPU: runtimes that can run models on it.

This module is light; a runtime is imported when a model is opened or a route proved.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.providers import PROVIDERS, Provider
from agent.hal import ModelFile, Session

STAND_INS = ("openvino", "webgpu")  # providers that run on the CPU or software Vulkan as well


@dataclass(frozen=True, slots=True)
class Route:
    """``prove`` gives the runtime's version, or raises whatever is wrong. ``package`` provides it, ``install`` says how
    it is installed. ``vendors``: whose GPUs it runs on; empty: anybody's. ``software``: it runs on what plays a GPU,
    too. ``provider``: it is one of ONNX Runtime's, and there only where the build that is installed has it."""

    formats: tuple[str, ...]
    open: Callable[[ModelFile, Gpu], Session]
    prove: Callable[[Gpu], str]
    package: str
    install: str
    vendors: tuple[str, ...] = ()
    software: bool = True
    provider: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there, importable or not."""
        return importlib.util.find_spec(self.package) is not None

    def fits(self, gpu: Gpu) -> bool:
        """Whether it could run on this GPU."""
        if gpu.software:
            return self.software
        return not self.vendors or not gpu.vendor or gpu.vendor in self.vendors


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


def _provider(name: str, provider: Provider) -> Route:
    return Route(
        ("onnx",), functools.partial(_open_onnx, name), functools.partial(_prove_onnx, name), "onnxruntime",
        provider.install, provider.vendors, name in STAND_INS, provider=True,
    )  # fmt: skip


ROUTES: Mapping[str, Route] = {
    **{name: _provider(name, provider) for name, provider in PROVIDERS.items()},
    "litert": Route(
        ("tflite",), _open_litert, _prove_litert, "ai_edge_litert", "pip install 'overlaid[litert]'"
    ),
    "opencl": Route(("npu",), _open_opencl, _prove_opencl, "pyopencl", "pip install 'overlaid[opencl]'"),
}


def routes_to(gpu: Gpu) -> dict[str, Route]:
    """Those that could run on this GPU."""
    return {name: route for name, route in ROUTES.items() if route.fits(gpu)}
