"""Which OpenCL device is which GPU. Pure, and light: the process that probes asks, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.devices.gpu.gpus import Gpu, number
from agent.devices.opencl.platforms import ClDevice, best_cpu

# What drivers call themselves in CL_DEVICE_VENDOR, in lower case.
VENDORS = {
    "nvidia": ("nvidia",),
    "amd": ("amd", "advanced micro devices"),
    "intel": ("intel",),
    "arm": ("arm",),
    "qualcomm": ("qualcomm",),
    "broadcom": ("broadcom",),
    "vivante": ("vivante", "verisilicon"),
    "imagination": ("imagination",),
}


def match(gpu: Gpu, devices: Sequence[ClDevice]) -> ClDevice | None:
    """The device that is this GPU: at its PCI address, else of its vendor, else the only one. Of the same one that
    several drivers offer: with dot products, then of the newest OpenCL."""
    if gpu.software:
        player = best_cpu(devices)
        return (
            None if player is None else replace(player, kind="gpu")
        )  # with a GPU's kernels, and a GPU's faults
    there = [device for device in devices if device.kind == "gpu"]
    here = [device for device in there if gpu.pci is not None and device.pci == gpu.pci]
    if here:
        return max(here, key=_quality)
    unplaced = [device for device in there if device.pci is None or gpu.pci is None]
    own = [device for device in unplaced if not gpu.vendor or vendor_of(device) in ("", gpu.vendor)]
    of_driver = _of_best_driver(own)
    return of_driver[gpu.index] if gpu.index < len(of_driver) else None


def gpus_of(devices: Sequence[ClDevice]) -> tuple[Gpu, ...]:
    """The GPUs among what OpenCL offers, where the kernel shows none."""
    there = _of_best_driver([device for device in devices if device.kind == "gpu"])
    found = [Gpu("", device.name, vendor_of(device), device.pci) for device in there]
    return number(sorted(found, key=lambda gpu: gpu.pci or ""))


def vendor_of(device: ClDevice) -> str:
    """As ``Gpu.vendor`` says it; empty for one that is not known."""
    words = device.vendor.lower()
    return next((key for key, names in VENDORS.items() if words.startswith(names)), "")


def _of_best_driver(devices: Sequence[ClDevice]) -> list[ClDevice]:
    """Of one platform, whose best device is the best."""
    if not devices:
        return []
    platform = max(devices, key=_quality).platform
    return [device for device in devices if device.platform == platform]


def _quality(device: ClDevice) -> tuple[bool, str, int]:
    return device.dot, device.version, -device.index[0]
