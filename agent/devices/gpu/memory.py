"""How much memory a GPU has, as its drivers tell."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

from agent.devices.gpu.gpus import Gpu
from agent.devices.opencl.platforms import ClDevice
from agent.errors import MeterError

NVML = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def gpu_memory_mb(gpu: Gpu, device: ClDevice | None, root: Path = Path("/")) -> int | None:
    """In MB (10^6 bytes): what OpenCL says of it as ``device``, else amdgpu or NVML; None where nobody tells."""
    if device is not None:
        return device.memory_bytes // 1_000_000
    if gpu.driver == "amdgpu" and gpu.pci:
        with contextlib.suppress(OSError, ValueError):
            text = (root / "sys/bus/pci/devices" / gpu.pci / "mem_info_vram_total").read_text()
            return int(text) // 1_000_000
    if gpu.driver == "nvidia" and gpu.pci:
        with contextlib.suppress(MeterError):
            return _nvml_bytes(gpu.pci) // 1_000_000
    return None


def _nvml_bytes(pci: str) -> int:
    """Raises MeterError."""
    from agent.devices.power.nvml import Nvml

    nvml, handle, memory = Nvml(NVML), ctypes.c_void_p(), _Memory()
    address = ctypes.c_char_p(pci.encode())
    nvml.check(nvml.call("nvmlDeviceGetHandleByPciBusId_v2", address, ctypes.byref(handle)), f"GPU {pci}")
    nvml.check(nvml.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory)), f"memory of {pci}")
    return int(memory.total)
