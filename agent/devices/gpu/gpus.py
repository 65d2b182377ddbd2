"""The GPUs of this machine, as the kernel shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``id``: of its device, ``gpu``, or ``gpu0``, ``gpu1`` where there are several.

    ``vendor``: nvidia, amd, intel, arm, qualcomm, broadcom …, or empty where nobody says. ``pci``: its address
    ("0000:01:00.0"); None where it is part of a chip. ``index``: among the GPUs of the same vendor, by PCI address: CUDA's ordinal
    with CUDA_DEVICE_ORDER=PCI_BUS_ID. ``driver``: the kernel's module that runs it; empty when none does. ``nodes``:
    the files in /dev that programs reach it by. ``software``: no GPU but this CPU's cores.
    """

    id: str
    name: str
    vendor: str = ""
    pci: str | None = None
    index: int = 0
    driver: str = ""
    nodes: tuple[str, ...] = ()
    software: bool = False
