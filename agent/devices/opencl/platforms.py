"""The OpenCL devices of this machine, as their drivers describe them; pyopencl is imported when one asks.

A driver may crash or hang: look from a process of its own (``agent.devices.proving``).
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agent.devices.opencl import icds
from agent.devices.opencl.plan import Traits
from agent.errors import DeviceLost, RuntimeUnavailable, one_line

if TYPE_CHECKING:
    import pyopencl

Kind = Literal["cpu", "gpu", "accelerator"]
Query = Callable[[Any, int, int], bytes]  # (device, parameter, most bytes) -> value, b"" where it has none

MAX_PLATFORMS, MAX_DEVICES = 16, 64  # of one platform
SHORT = {"Portable Computing Language": "PoCL"}
# cl.h: cl_device_type, cl_device_fp_config
KINDS: dict[int, Kind] = {4: "gpu", 8: "accelerator", 2: "cpu"}
ROUND_TO_NEAREST = 1 << 2
# cl_ext.h: what extensions tell of a device
DOT_CAPABILITIES, DOT_PACKED = 0x1073, 1 << 0  # cl_khr_integer_dot_product
PCI_BUS_INFO = 0x410F  # cl_khr_pci_bus_info
NV_BUS, NV_SLOT, NV_DOMAIN = 0x4008, 0x4009, 0x400A  # cl_nv_device_attribute_query
AMD_TOPOLOGY, AMD_PCIE = 0x4037, 1  # cl_amd_device_attribute_query


@dataclass(frozen=True, slots=True)
class ClDevice:
    """One device of one platform; a device that two drivers offer is two, with different ``platform``.

    ``version``: CL_DEVICE_VERSION, e.g. "OpenCL 3.0 PoCL"; ``units``: compute units; ``group``: work-items that a
    work-group may have; ``dot``: packed int8 dot products; ``pci``: "0000:3b:00.0", where the driver tells it;
    ``index``: of the platform, and of the device in it.
    """

    platform: str
    name: str
    kind: Kind
    version: str
    driver: str
    vendor: str
    memory_bytes: int
    max_alloc_bytes: int
    units: int
    group: int
    dot: bool
    pci: str | None
    index: tuple[int, int]

    @property
    def label(self) -> str:
        """For people; tells apart what two drivers offer, and equal cards."""
        return f"{self.name} ({self.platform}{f', {self.pci}' if self.pci else ''})"

    @property
    def runtime(self) -> str:
        """The driver and its version, e.g. "PoCL 3.0-rc2"."""
        return f"{SHORT.get(self.platform, self.platform)} {self.driver}"


def find_devices() -> tuple[list[ClDevice], list[str]]:
    """Every device that can run the kernels, and why others cannot, or why there is none. Raises nothing."""
    try:
        devices, problems = examine(_platforms(), raw_info)
    except RuntimeUnavailable as error:
        return [], [str(error)]
    if not devices:
        return [], [*problems, *icds.problems(icds.look())]
    if not any(device.kind == "gpu" for device in devices):
        problems += icds.driver_problems(icds.look())
    return devices, problems


def examine(platforms: Sequence[Any], query: Query) -> tuple[list[ClDevice], list[str]]:
    """The devices of pyopencl's ``platforms`` and what is wrong with others; ``query`` asks what pyopencl does not."""
    devices: list[ClDevice] = []
    problems: list[str] = []
    seen: set[int] = set()  # one driver that two .icd files name comes twice
    for number, platform in enumerate(platforms[:MAX_PLATFORMS]):
        try:
            name = _text(platform.name) or f"platform {number}"
            handles = list(platform.get_devices())[:MAX_DEVICES]
        except Exception as error:  # a driver may answer with anything
            problems.append(f"OpenCL platform {number} does not answer: {one_line(error)}; update its driver")
            continue
        for position, handle in enumerate(handles):
            try:
                if handle.int_ptr not in seen:
                    seen.add(handle.int_ptr)
                    devices.append(_describe(name, handle, (number, position), query))
            except Exception as error:
                problems.append(f"OpenCL device {position} of {name} is not usable: {one_line(error)}")
    return devices, problems


def handle(device: ClDevice) -> pyopencl.Device:
    """What pyopencl calls the device. Raises DeviceLost, of a CPU RuntimeUnavailable, when it is there no more."""
    matches = []
    for index, found in _handles():
        with contextlib.suppress(Exception):
            offered = _describe(_text(found.platform.name), found, index, raw_info)
            if _identity(offered) == _identity(device):
                matches.append((index != device.index, index, found))
    if matches:
        return min(matches, key=lambda match: match[:2])[2]
    lost = RuntimeUnavailable if device.kind == "cpu" else DeviceLost
    raise lost(f"OpenCL offers {device.label} no more; see `overlaid devices` for what it offers now")


def traits_of(device: ClDevice, threads: int | None = None) -> Traits:
    """What plans and kernels depend on; of a CPU that may use so many ``threads`` there are so many units at most."""
    units = device.units if threads is None else min(threads, device.units)
    return Traits(device.kind, device.dot, units, device.group)


def best_cpu(devices: Sequence[ClDevice]) -> ClDevice | None:
    """The CPU device to prefer where several drivers offer one: with dot products, then of the newest OpenCL."""
    cpus = [device for device in devices if device.kind == "cpu"]
    return max(
        cpus, key=lambda device: (device.dot, _version(device.version), -device.index[0]), default=None
    )


def raw_info(handle: Any, parameter: int, nbytes: int) -> bytes:
    """clGetDeviceInfo (OpenCL 3.0, 4.2) for parameters that pyopencl does not know; b"" where the driver does not."""
    import ctypes

    import pyopencl

    # The loader that pyopencl is linked to, found through it: another one would have other devices.
    library = ctypes.CDLL(pyopencl._cl.__file__)
    value, size = ctypes.create_string_buffer(nbytes), ctypes.c_size_t()
    status = library.clGetDeviceInfo(
        ctypes.c_void_p(handle.int_ptr), ctypes.c_uint(parameter), ctypes.c_size_t(nbytes), value, ctypes.byref(size)
    )  # fmt: skip
    return value.raw[: size.value] if status == 0 else b""


def _platforms() -> Sequence[Any]:
    try:
        import pyopencl
    except ModuleNotFoundError as error:
        if error.name != "pyopencl":
            raise RuntimeUnavailable(f"pyopencl cannot be imported: {one_line(error)}") from error
        raise RuntimeUnavailable(icds.NO_PYOPENCL) from error
    except Exception as error:
        raise RuntimeUnavailable(f"pyopencl cannot be imported: {one_line(error)}") from error
    try:
        found: Sequence[Any] = pyopencl.get_platforms()
    except Exception:  # how it says that there are none; opencl_problems() knows why
        return []
    return found


def _handles() -> Iterator[tuple[tuple[int, int], Any]]:
    for number, platform in enumerate(_platforms()[:MAX_PLATFORMS]):
        with contextlib.suppress(Exception):
            for position, found in enumerate(platform.get_devices()[:MAX_DEVICES]):
                yield (number, position), found


def _identity(device: ClDevice) -> tuple[str | None, ...]:
    """What stays while drivers come and go before it; memory sizes may change."""
    return device.platform, device.name, device.driver, device.pci


def _describe(platform: str, handle: Any, index: tuple[int, int], query: Query) -> ClDevice:
    """Raises RuntimeUnavailable with the reason for one that cannot run the kernels."""
    name = _text(handle.name) or f"device {index[1]}"
    kind = next((kind for bit, kind in KINDS.items() if handle.type & bit), None)
    if kind is None:
        raise RuntimeUnavailable(f"{name} is of a type of its own, which runs no kernels of others")
    reason = _unfit(kind, handle)
    if reason:
        raise RuntimeUnavailable(f"{name} {reason}")
    extensions = handle.extensions.split()
    return ClDevice(
        platform, name, kind, _text(handle.version), _text(handle.driver_version), _text(handle.vendor),
        int(handle.global_mem_size), int(handle.max_mem_alloc_size), max(int(handle.max_compute_units), 1),
        max(int(handle.max_work_group_size), 1), _has_dot(handle, extensions, query), _pci(handle, query), index,
    )  # fmt: skip


def _unfit(kind: Kind, handle: Any) -> str:
    """Why the kernels cannot run there, or would compute other bits; "" for a device that fits."""
    if not handle.available:
        return "is not available, says its driver; does another program own it?"
    if not handle.compiler_available and kind != "accelerator":
        return "comes without a compiler for kernels; install its driver's complete package"
    if not handle.endian_little:
        return "is big-endian; programs are little-endian"
    if _version(handle.version) < (1, 2):
        return f"has {_text(handle.version)}; the kernels need OpenCL 1.2, see whether a newer driver has it"
    if not handle.single_fp_config & ROUND_TO_NEAREST:
        return "does not round to nearest: its outputs would differ from other devices'"
    # The embedded profile leaves 64-bit integers to an extension (OpenCL 1.2 specification, section 10).
    if handle.profile == "EMBEDDED_PROFILE" and "cles_khr_int64" not in handle.extensions.split():
        return "has no 64-bit integers (an embedded profile without cles_khr_int64)"
    return ""


def _has_dot(handle: Any, extensions: Sequence[str], query: Query) -> bool:
    if "cl_khr_integer_dot_product" not in extensions:
        return False
    return bool(int.from_bytes(query(handle, DOT_CAPABILITIES, 8), "little") & DOT_PACKED)


def _pci(handle: Any, query: Query) -> str | None:
    """The address as /sys/bus/pci/devices writes it."""
    bus_info = query(handle, PCI_BUS_INFO, 16)
    if len(bus_info) == 16:
        return _address(*struct.unpack("<4I", bus_info))
    nv = [query(handle, parameter, 4) for parameter in (NV_DOMAIN, NV_BUS, NV_SLOT)]
    if all(len(value) == 4 for value in nv[1:]):
        domain, bus, slot = (int.from_bytes(value, "little") for value in nv)
        return _address(domain, bus, slot >> 3, slot & 7)
    topology = query(handle, AMD_TOPOLOGY, 24)  # a 32-bit type, 17 unused bytes, bus, device, function
    if len(topology) == 24 and int.from_bytes(topology[:4], "little") == AMD_PCIE:
        return _address(0, *topology[21:])
    return None


def _address(domain: int, bus: int, device: int, function: int) -> str | None:
    if domain >> 32 or bus >> 8 or device >> 5 or function >> 3:
        return None  # a driver that answers with something else
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"


def _version(text: str) -> tuple[int, int]:
    """(3, 0) of "OpenCL 3.0 PoCL" (the form that the specification fixes for CL_DEVICE_VERSION); (0, 0) otherwise."""
    found = re.match(r"OpenCL (\d{1,3})\.(\d{1,3})", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _text(value: object) -> str:
    return " ".join(re.sub(r"[^\x20-\x7e]", " ", str(value)).split())[:128]
