"""NVIDIA's GPUs through NVML, the library that comes with their driver.

Source: NVML API Reference Guide (docs.nvidia.com/deploy/nvml-api), functions and nvmlReturn_t.
nvmlDeviceGetTotalEnergyConsumption counts millijoules since the driver was loaded (Volta and newer) and is preferred:
nvmlDeviceGetPowerUsage (milliwatts) is an average over a second from Ampere on. A thread calls them: a GPU in trouble
keeps its callers waiting.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator

from agent.devices.power.account import Counter, Watts
from agent.devices.power.polled import PolledMeter, Poller
from agent.errors import MeterError
from agent.hal import PowerMeter

NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, OPERATING_SYSTEM = 3, 4, 9, 13, 17
NOT_THERE = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
SHUT_OUT = (NO_PERMISSION, DRIVER_NOT_LOADED, OPERATING_SYSTEM)
UUID_BYTES = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE
MAX_GPUS = 64


class Nvml:
    """The library, initialised. Functions give NVML's return codes, of which 0 is success."""

    def __init__(self, name: str) -> None:
        """MeterError when there is none, or it does not reach the driver."""
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise MeterError(
                f"gpu: the NVIDIA driver is loaded but its library is not there ({error}); install the "
                "package of the driver's version that has it"
            ) from None
        self.check(self.call("nvmlInit_v2"), "nvmlInit")

    def call(self, function: str, *arguments: object) -> int:
        """The return code; FUNCTION_NOT_FOUND when the library is older than the function."""
        try:
            return int(getattr(self._library, function)(*arguments))
        except AttributeError:
            return FUNCTION_NOT_FOUND

    def check(self, code: int, what: str) -> None:
        """MeterError in NVML's words when ``code`` is no success."""
        if not code:
            return
        text = self._library.nvmlErrorString
        text.restype, text.argtypes = ctypes.c_char_p, [ctypes.c_int]
        said = (text(code) or b"unknown").decode(errors="replace")
        mend = "; does nvidia-smi work? In the service, systemd/overlaid-gpu.conf opens NVIDIA's devices"
        raise MeterError(f"gpu: {what}: {said} ({code}){mend if code in SHUT_OUT else ''}")

    def devices(self) -> Iterator[tuple[str, ctypes.c_void_p]]:
        """(rail, handle) of each GPU. The only one is "gpu"; of several each has the start of its UUID."""
        count = ctypes.c_uint()
        self.check(self.call("nvmlDeviceGetCount_v2", ctypes.byref(count)), "nvmlDeviceGetCount")
        for index in range(min(count.value, MAX_GPUS)):
            handle, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(UUID_BYTES)
            code = self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            self.check(code, f"GPU {index}")
            self.check(
                self.call("nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(UUID_BYTES)), f"GPU {index}"
            )
            name = uuid.value.decode(errors="replace").removeprefix("GPU-")[:8]
            yield "gpu" if count.value == 1 else f"gpu-{name}", handle

    def has_counter(self, handle: ctypes.c_void_p, rail: str) -> bool:
        """Whether this GPU and this library count energy."""
        value = ctypes.c_ulonglong()
        code = self.call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(value))
        if code not in NOT_THERE:
            self.check(code, f"energy of {rail}")
        return code == 0

    def millijoules(self, handle: ctypes.c_void_p, rail: str) -> int:
        """Since the driver was loaded."""
        value = ctypes.c_ulonglong()
        code = self.call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(value))
        self.check(code, f"energy of {rail}")
        return value.value

    def watts(self, handle: ctypes.c_void_p, rail: str) -> float:
        """Of the board with its memory."""
        value = ctypes.c_uint()
        self.check(self.call("nvmlDeviceGetPowerUsage", handle, ctypes.byref(value)), f"power of {rail}")
        return value.value / 1e3


def find_nvml(
    library: str, clock: Callable[[], float], problems: list[str]
) -> list[Callable[[], PowerMeter]]:
    """What opens the meter of each GPU; ``library`` is NVML's file."""
    poller = Poller()
    try:
        nvml = Nvml(library)
        return [
            functools.partial(_open, nvml, poller, rail, handle, clock) for rail, handle in nvml.devices()
        ]
    except MeterError as error:
        problems.append(f"no power from {error}")
        return []


def _open(
    nvml: Nvml, poller: Poller, rail: str, handle: ctypes.c_void_p, clock: Callable[[], float]
) -> PowerMeter:
    if nvml.has_counter(handle, rail):
        return PolledMeter(poller, rail, Counter(1e-3), lambda: (nvml.millijoules(handle, rail),), clock)
    return PolledMeter(poller, rail, Watts(), lambda: (nvml.watts(handle, rail),), clock)
