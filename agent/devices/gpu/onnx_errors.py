"""What ONNX Runtime's texts about a GPU mean. Pure.

Its errors share one class per status code, so only the text tells memory that is full from a GPU that is gone.
Sources: ``CUDA failure N: name`` from ``cuda_call.cc``, with N from CUDA's ``driver_types.h``; ``BFCArena`` from
``bfc_arena.cc``; ``WebGPU device lost`` from ``webgpu_context.cc``; ``CL_...`` from OpenVINO's GPU plugin.
"""

from __future__ import annotations

import re

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.memory import gpu_memory_mb
from agent.errors import DeviceError, DeviceLost, InferenceError, OutOfDeviceMemory, one_line

REQUESTED = re.compile(
    r"requested buffer of size (\d+)|smaller than requested bytes of (\d+)|Requested: (\d+)|allocate (\d+) bytes"
)
AVAILABLE = re.compile(r"Available memory of (\d+)")
FULL = re.compile(
    r"Failed to allocate memory|(?:CUDA|HIP) (?:failure|error) 2\b|out of memory|out_of_memory|ALLOC_FAILED|"
    r"smaller than requested bytes|CL_MEM_OBJECT_ALLOCATION_FAILURE|cudaErrorMemoryAllocation|hipErrorOutOfMemory",
    re.IGNORECASE,
)
# Of CUDA and HIP: 4 unloading, 46 and 100 no device, 214 ECC, 700 illegal address, 709 context gone, 710 assert,
# 715-719 faults of a kernel, 999 unknown. After each the process's context is dead.
GONE = re.compile(
    r"(?:CUDA|HIP) (?:failure|error) (?:4|46|100|214|700|709|710|71[5-9]|999)\b|unspecified launch failure|"
    r"illegal memory access|illegal instruction was|device lost|DEVICE_LOST|GPU is lost|fallen off the bus|"
    r"CL_DEVICE_NOT_AVAILABLE|no CUDA-capable device",
    re.IGNORECASE,
)
NO_START = re.compile(
    r"Error creating execution provider|CreateExecutionProvider|RegisterTensorRTPlugins|"
    r"Failed to load (?:shared )?library|Failed to get a WebGPU adapter|[Dd]evice .+ is not available"
)
FELL_BACK = re.compile(r"^EP Error (.+?)\s+when using .*^Falling back to", re.DOTALL | re.MULTILINE)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LOGGED = re.compile(r"^\S+ \S+ \[[EF]:onnxruntime:[^]]*\] ")  # date, time, severity, place


def failure(error: BaseException, gpu: Gpu, doing: str) -> DeviceError | None:
    """OutOfDeviceMemory or DeviceLost where an error's text says so, else None."""
    text = str(error)
    if GONE.search(text):
        return DeviceLost(
            f"{gpu.name} is gone while {doing}: {one_line(error)}; see dmesg for the driver's reason"
        )
    if FULL.search(text):
        return OutOfDeviceMemory(
            f"{gpu.name} has too little memory for {doing}{_sizes(text, gpu_memory_mb(gpu, None))}: "
            f"{one_line(error)}; close other programs on it, send smaller batches or place the model elsewhere"
        )
    return None


def run_failure(error: BaseException, gpu: Gpu) -> DeviceError:
    """What a run on ``gpu`` failed with."""
    return failure(error, gpu, "running the model") or InferenceError(
        f"ONNX Runtime failed on {gpu.name}: {one_line(error)}"
    )


def _sizes(text: str, total_mb: int | None) -> str:
    wanted, there = REQUESTED.search(text), AVAILABLE.search(text)
    parts = []
    if wanted:
        parts.append(f"{_mb(next(number for number in wanted.groups() if number))} wanted")
    if there:
        parts.append(f"{_mb(there[1])} left")
    if total_mb is not None:
        parts.append(f"{total_mb} MB in all")
    return f" ({', '.join(parts)})" if parts else ""


def _mb(number: str) -> str:
    return f"{int(number) / 1e6:.1f} MB"


def is_providers(error: BaseException) -> bool:
    """Whether the provider failed to start, whatever the model."""
    return bool(NO_START.search(str(error)))


def reason(log: str) -> str:
    """The first error that the runtime logged, as ``plain``; empty when it logged none."""
    lines = COLOURS.sub("", log).splitlines()
    return next((plain(LOGGED.sub("", line)) for line in lines if LOGGED.match(line)), "")


def swallowed(printed: str) -> str:
    """The error after which the runtime printed that it falls back to the CPU; empty when it did not."""
    found = FELL_BACK.search(printed)
    return found[1] if found else ""


def plain(text: str) -> str:
    """What happened, without the place in the source that comes before it."""
    text = " ".join(text.split())
    for end in (" : FAIL : ", " : EP_FAIL : ", "[ERROR] ", " was false. "):
        text = text.split(end)[-1]
    return text.strip()
