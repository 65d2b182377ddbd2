"""A GPU as a device: which routes to it work, and sessions on them.

This module is light; a runtime is imported when a model is opened.
"""

from __future__ import annotations

import functools

from agent.devices.gpu.gpus import Gpu, find_gpus, has_nodes
from agent.devices.gpu.routes import routes_to
from agent.errors import RuntimeUnavailable, one_line
from agent.hal import ModelFile, Session
from agent.types import DeviceInfo


def local_gpus(software: bool = False) -> tuple[Gpu, ...]:
    """This machine's GPUs: those that the kernel shows, else those that OpenCL does, as in containers without sysfs.

    ``software``: see ``find_gpus``.
    """
    found = find_gpus(software=software)
    if found or not has_nodes():
        return found
    from agent.devices.gpu.probing import opencls_gpus

    return opencls_gpus()


class GpuDevice:
    """See ``hal.Device``. ``info`` takes seconds when first asked for: every route is proved."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    @functools.cached_property
    def info(self) -> DeviceInfo:
        """See ``hal.Device.info``; without backends where nothing runs on it."""
        from agent.devices.gpu.probing import probe_gpus

        found = probe_gpus((self._gpu,)).devices
        return found[0] if found else DeviceInfo(self._gpu.id, "gpu", self._gpu.name, ())

    def open(self, model: ModelFile, backend: str) -> Session:
        """See ``hal.Device.open``; DeviceLost, OutOfDeviceMemory, KernelBuildFailed."""
        routes = routes_to(self._gpu)
        if backend not in routes:
            raise RuntimeUnavailable(
                f"{self._gpu.id} has no backend {backend!r}; there are {', '.join(routes)}"
            )
        route = routes[backend]
        if model.format not in route.formats:
            raise RuntimeUnavailable(f"{backend} opens {', '.join(route.formats)}, not {model.format}")
        try:
            return route.open(model, self._gpu)
        except ImportError as error:
            raise RuntimeUnavailable(
                f"{backend} cannot be imported ({one_line(error)}); {route.install}"
            ) from error
