"""What pyopencl raises as errors of this project, which say what to do next."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyopencl as cl

from agent.devices.opencl.platforms import ClDevice
from agent.errors import (
    DeviceError,
    DeviceLost,
    InferenceError,
    OutOfDeviceMemory,
)

# OpenCL 3.0 specification, appendix F (cl.h)
DEVICE_NOT_AVAILABLE = -2
MEM_OBJECT_ALLOCATION_FAILURE = -4
OUT_OF_RESOURCES, OUT_OF_HOST_MEMORY = -5, -6
FAILED_EVENT = -14  # EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST
INVALID_DEVICE, INVALID_CONTEXT, INVALID_COMMAND_QUEUE = -33, -34, -36
INVALID_BUFFER_SIZE = -61
NVIDIA_FAULT = -9999  # NVIDIA's driver: a kernel left its memory, after which the context is useless
GONE = {DEVICE_NOT_AVAILABLE, INVALID_DEVICE, INVALID_CONTEXT, INVALID_COMMAND_QUEUE, NVIDIA_FAULT}
MB = 10**6


def classify(code: int, kind: str, *, allocating: bool) -> type[DeviceError]:
    """Which error an OpenCL status code is on a device of this kind.

    OUT_OF_RESOURCES is a lack of memory where something is allocated; in a run, GPUs' drivers say it of a device that
    failed, and a command that failed is another sign of that. A CPU is never lost, and the host's memory is its own.
    """
    lacking = {OUT_OF_RESOURCES, OUT_OF_HOST_MEMORY} if kind == "cpu" else {OUT_OF_RESOURCES}
    if code in (MEM_OBJECT_ALLOCATION_FAILURE, INVALID_BUFFER_SIZE) or (code in lacking and allocating):
        return OutOfDeviceMemory
    if kind != "cpu" and (code in GONE or (code in (OUT_OF_RESOURCES, FAILED_EVENT) and not allocating)):
        return DeviceLost
    return InferenceError


def describe(error: cl.Error, device: ClDevice, *, allocating: bool, needed: int = 0) -> DeviceError:
    """The error to raise for one of pyopencl's. ``needed``: bytes that a program takes on the device, if it is one."""
    found = classify(error.code, device.kind, allocating=allocating)
    said = f"{error.routine or 'OpenCL'} says {cl.status_code.to_string(error.code, '%d')}"
    if found is OutOfDeviceMemory:
        allow = "raise serving.worker_memory_mb, " if device.kind == "cpu" else ""
        program = f" for the program, which needs {needed / MB:.1f} MB" if needed else ""
        text = (
            f"has no room{program}; it has {device.memory_bytes / MB:.1f} MB in all, for all that runs on it ({said}); "
            f"remove another model from it, {allow}or send smaller batches"
        )
    elif found is DeviceLost:
        text = f"is lost ({said}); see what its driver told the system (dmesg), and restart the machine if need be"
    else:
        text = f"failed ({said}); open the model again, and update its driver if that does not help"
    return found(f"{device.label} {text}")


@contextmanager
def named(device: ClDevice, *, allocating: bool, needed: int = 0) -> Iterator[None]:
    """Turns what pyopencl raises inside into DeviceLost, OutOfDeviceMemory or InferenceError; see ``describe``."""
    try:
        yield
    except cl.Error as error:
        raise describe(error, device, allocating=allocating, needed=needed) from error


def room_on(device: ClDevice, status: Path = Path("/proc/self/status")) -> int:
    """Bytes that a program may take there: on a CPU no more than this process may still have, as drivers for CPUs crash
    where they get none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if device.kind != "cpu" or limit == resource.RLIM_INFINITY:
        return device.memory_bytes
    held = re.search(r"^VmData:\s+(\d+) kB$", status.read_text(), re.MULTILINE)  # what the limit is for
    return max(min(device.memory_bytes, limit - (int(held[1]) << 10 if held else 0)), 0)


def check_memory(needed: int, largest: int, device: ClDevice, room: int) -> None:
    """OutOfDeviceMemory, with sizes, when a program cannot fit on the device even alone.

    ``needed`` bytes in all, ``largest`` in one buffer; ``room``: see ``room_on``.
    """
    if room < needed <= device.memory_bytes:
        raise OutOfDeviceMemory(
            f"the program needs {needed / MB:.1f} MB of memory on {device.label}, and this process may have "
            f"{room / MB:.1f} MB more; raise serving.worker_memory_mb, or use a smaller model"
        )
    if needed > device.memory_bytes:
        raise OutOfDeviceMemory(
            f"the program needs {needed / MB:.1f} MB of memory on {device.label}, which has "
            f"{device.memory_bytes / MB:.1f} MB; use a device with more, or a smaller model"
        )
    if largest > device.max_alloc_bytes:
        raise OutOfDeviceMemory(
            f"the program needs a buffer of {largest / MB:.1f} MB on {device.label}, which gives "
            f"{device.max_alloc_bytes / MB:.1f} MB at most; use another device, or a smaller model"
        )
