from __future__ import annotations

from pathlib import Path

import pytest

from agent.devices.gpu.gpus import Gpu, find_gpus, has_nodes
from tests.unit.devices.gpu.machines import DATA, unpack

RENDER = ("/dev/dri/renderD128",)
FOUND = {
    "intel-laptop": (Gpu("gpu", "Intel GPU 8086:9a49", "intel", "0000:00:02.0", 0, "i915", RENDER),),
    "nvidia-desktop": (
        Gpu("gpu0", "Intel GPU 8086:4680", "intel", "0000:00:02.0", 0, "i915", RENDER),
        Gpu(
            "gpu1", "NVIDIA GeForce RTX 3090", "nvidia", "0000:01:00.0", 0, "nvidia",
            ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"),
        ),
    ),
    "nvidia-server": tuple(
        Gpu(
            f"gpu{index}", "NVIDIA H200", "nvidia", f"0000:{bus}b:00.0", index, "nvidia",
            (f"/dev/nvidia{index}", "/dev/nvidiactl", "/dev/nvidia-uvm"),
        )
        for index, bus in enumerate("15")
    ),
    "amd-workstation": (
        Gpu("gpu0", "AMD Radeon RX 6800 XT", "amd", "0000:03:00.0", 0, "amdgpu", RENDER),
        Gpu("gpu1", "AMD GPU 1002:74a1", "amd", "0000:c1:00.0", 1, "amdgpu", ("/dev/dri/renderD129",)),
    ),
    "virtual-machine": (),
    "frame-buffer": (),
    "raspberry-pi-5": (
        Gpu(
            "gpu", "VideoCore (brcm,2712-v3d) of Raspberry Pi 5 Model B Rev 1.0", "broadcom", None, 0, "v3d", RENDER
        ),
    ),
    "rock-5b": (Gpu("gpu", "Mali (rockchip,rk3588-mali) of Radxa ROCK 5B", "arm", None, 0, "panthor", RENDER),),
    "rock-5b-vendor": (Gpu("gpu", "Arm Mali-G610", "arm", None, 0, "mali", ("/dev/mali0",)),),
    "qualcomm": (Gpu("gpu", "Adreno (qcom,adreno-643.0)", "qualcomm", None, 0, "msm", RENDER),),
    "qualcomm-vendor": (Gpu("gpu", "Qualcomm Adreno643v1", "qualcomm", None, 0, "kgsl", ("/dev/kgsl-3d0",)),),
    "jetson-orin-nano": (
        Gpu(
            "gpu", "NVIDIA Tegra of NVIDIA Jetson Orin Nano Developer Kit", "nvidia", None, 0, "nvgpu",
            ("/dev/nvhost-gpu", "/dev/nvmap"),
        ),
    ),
    "no-driver": (Gpu("gpu", "Intel GPU 8086:46a6", "intel", "0000:00:02.0"),),
}  # fmt: skip


def test_every_machine_is_known() -> None:
    assert {path.stem for path in DATA.glob("*.txt")} == FOUND.keys()


@pytest.mark.parametrize("machine", FOUND)
def test_gpus_of_a_machine(machine: str, tmp_path: Path) -> None:
    assert find_gpus(unpack(machine, tmp_path)) == FOUND[machine]


def test_an_empty_system_has_none(tmp_path: Path) -> None:
    assert find_gpus(tmp_path) == ()
    assert not has_nodes(tmp_path)


def test_software_is_asked_for_and_then_the_only_one(tmp_path: Path) -> None:
    (gpu,) = find_gpus(unpack("nvidia-desktop", tmp_path), software=True)
    assert (gpu.id, gpu.software, gpu.vendor, gpu.nodes) == ("gpu", True, "", ())


def test_a_container_sees_the_gpus_that_it_was_given(tmp_path: Path) -> None:
    root = unpack("nvidia-server", tmp_path)
    (root / "dev/nvidia0").unlink()
    (gpu,) = find_gpus(root)
    assert (gpu.id, gpu.pci, gpu.index) == ("gpu", "0000:5b:00.0", 0)


def test_without_any_file_in_dev_all_are_shown(tmp_path: Path) -> None:
    root = unpack("nvidia-server", tmp_path)
    for index in (0, 1):
        (root / f"dev/nvidia{index}").unlink()
    assert len(find_gpus(root)) == 2


def test_a_jetson_in_a_sandbox_still_has_its_gpu(tmp_path: Path) -> None:
    root = unpack("jetson-orin-nano", tmp_path)
    for path in (root / "dev").iterdir():
        path.unlink()
    (gpu,) = find_gpus(root)
    assert (gpu.driver, gpu.nodes) == ("nvgpu", ("/dev/nvhost-gpu", "/dev/nvmap"))


@pytest.mark.parametrize(
    "machine", ["intel-laptop", "nvidia-server", "rock-5b-vendor", "qualcomm-vendor", "jetson-orin-nano"]
)
def test_nodes_of_drivers(machine: str, tmp_path: Path) -> None:
    assert has_nodes(unpack(machine, tmp_path))


def test_unreadable_attributes_are_no_gpu(tmp_path: Path) -> None:
    folder = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    (folder / "class").mkdir(parents=True)  # a folder where a file should be
    (folder / "vendor").write_bytes(b"\xff\xfe" * 100_000)
    assert find_gpus(tmp_path) == ()
