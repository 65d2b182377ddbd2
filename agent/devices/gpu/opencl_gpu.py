"""Overlay programs on a GPU by OpenCL. Imports numpy."""

from __future__ import annotations

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.matching import match
from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import ClDevice, find_devices
from agent.devices.opencl.session import prove as prove_device
from agent.devices.program import ProgramSession
from agent.errors import DeviceLost
from agent.hal import ModelFile, Session


def open_session(model: ModelFile, gpu: Gpu) -> Session:
    """A session on the GPU. Raises DeviceLost (OpenCL does not offer it, and why), and what ``ProgramSession`` and
    ``OpenClEngine`` raise."""
    device = _find(gpu)
    return ProgramSession(model, lambda program: OpenClEngine(program, device, model.threads, model.cache))


def prove(gpu: Gpu) -> str:
    """The runtime and its version, once the GPU has answered the overlays' self-test; any exception otherwise."""
    return prove_device(_find(gpu))


def _find(gpu: Gpu) -> ClDevice:
    devices, problems = find_devices()
    found = match(gpu, devices)
    if found is None:
        others = ", ".join(device.label for device in devices)
        why = "; ".join(problems) or (f"it offers only {others}" if others else "it offers nothing")
        raise DeviceLost(f"OpenCL does not offer {gpu.name}: {why}; install the GPU's OpenCL driver")
    return found
