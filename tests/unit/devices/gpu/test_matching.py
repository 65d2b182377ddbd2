from __future__ import annotations

from dataclasses import replace

import pytest

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.matching import gpus_of, match, vendor_of
from agent.devices.opencl.platforms import ClDevice

CARD = ClDevice(
    "NVIDIA CUDA", "NVIDIA H200", "gpu", "OpenCL 3.0 CUDA", "570.1", "NVIDIA Corporation", 1 << 37, 1 << 35, 132, 1024,
    False, "0000:1b:00.0", (0, 0),
)  # fmt: skip
OTHER = replace(CARD, pci="0000:5b:00.0", index=(0, 1))
POCL = replace(
    CARD, platform="Portable Computing Language", name="pthread", kind="cpu", pci=None, index=(1, 0)
)
MALI = replace(CARD, platform="ARM Platform", name="Mali-G610", vendor="ARM", pci=None)
GPU = Gpu("gpu", "NVIDIA H200", "nvidia", "0000:1b:00.0", 0, "nvidia")


def test_by_address() -> None:
    assert match(GPU, [POCL, OTHER, CARD]) is CARD
    assert match(replace(GPU, pci="0000:5b:00.0", index=1), [POCL, CARD, OTHER]) is OTHER


def test_another_address_is_another_gpu() -> None:
    assert match(GPU, [OTHER, POCL]) is None


def test_of_several_drivers_the_one_with_dot_products() -> None:
    rusticl = replace(CARD, platform="rusticl", dot=True, index=(2, 0))
    assert match(GPU, [CARD, rusticl]) is rusticl


def test_a_chips_gpu_by_its_vendor() -> None:
    gpu = Gpu("gpu", "Mali", "arm", driver="panthor")
    assert match(gpu, [POCL, MALI]) is MALI
    assert match(gpu, [POCL, CARD]) is None
    assert match(gpu, [replace(MALI, vendor="Mesa")]) is not None  # a driver that does not name the maker


def test_equal_gpus_whose_driver_tells_no_address() -> None:
    two = [replace(CARD, pci=None), replace(OTHER, pci=None)]
    assert match(GPU, two) is two[0]
    assert match(replace(GPU, pci="0000:5b:00.0", index=1), two) is two[1]
    assert match(replace(GPU, index=2), two) is None


def test_a_cpu_is_no_gpu_unless_it_plays_one() -> None:
    assert match(GPU, [POCL]) is None
    software = Gpu("gpu", "software renderer", software=True)
    player = match(software, [CARD, POCL])
    assert player is not None and (player.name, player.index) == (POCL.name, POCL.index)
    assert match(software, [CARD]) is None


def test_gpus_that_only_opencl_shows() -> None:
    assert gpus_of([POCL]) == ()
    assert gpus_of([POCL, MALI]) == (Gpu("gpu", "Mali-G610", "arm"),)
    found = gpus_of([OTHER, CARD])
    assert [(gpu.id, gpu.pci, gpu.index) for gpu in found] == [("gpu0", CARD.pci, 0), ("gpu1", OTHER.pci, 1)]


def test_one_gpu_of_two_drivers_is_one() -> None:
    assert len(gpus_of([MALI, replace(MALI, platform="rusticl", index=(1, 0))])) == 1


@pytest.mark.parametrize(
    ("told", "vendor"),
    [
        ("NVIDIA Corporation", "nvidia"),
        ("Advanced Micro Devices, Inc.", "amd"),
        ("Intel(R) Corporation", "intel"),
        ("ARM", "arm"),
        ("QUALCOMM", "qualcomm"),
        ("Somebody", ""),
    ],
)
def test_vendors(told: str, vendor: str) -> None:
    assert vendor_of(replace(CARD, vendor=told)) == vendor
