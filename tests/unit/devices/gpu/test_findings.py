from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.devices.gpu import surroundings
from agent.devices.gpu.findings import explain, problems_of, shorten
from agent.devices.gpu.gpus import Gpu, find_gpus
from agent.devices.gpu.surroundings import Node, Surroundings, look_around
from tests.unit.devices.gpu.machines import unpack

INTEL = Gpu("gpu", "Intel GPU 8086:9a49", "intel", "0000:00:02.0", 0, "i915", ("/dev/dri/renderD128",))
NVIDIA = Gpu(
    "gpu", "NVIDIA H200", "nvidia", "0000:1b:00.0", 0, "nvidia",
    ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"),
)  # fmt: skip
RENDER = "/dev/dri/renderD128"
FINE = Surroundings((Node(RENDER, "open", "render"),), "overlaid")


def around(state: str, group: str = "render", place: str = "machine") -> Surroundings:
    return Surroundings((Node(RENDER, state, group),), "overlaid", place)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpu", "seen", "texts"),
    [
        (replace(INTEL, driver="", nodes=()), Surroundings(), ["no driver is bound to Intel GPU", "modprobe i915"]),
        (replace(NVIDIA, driver="", nodes=()), Surroundings(), ["no driver is bound", "install NVIDIA's driver"]),
        (replace(NVIDIA, driver="vfio-pci", nodes=()), Surroundings(), ["kept for virtual machines", "unbind"]),
        (replace(NVIDIA, driver="nouveau"), FINE, ["nouveau", "no CUDA", "install NVIDIA's driver"]),
        (INTEL, around("missing"), ["driver i915 has made no /dev/dri/renderD128", "dmesg | grep -i i915"]),
        (
            INTEL, around("missing", place="service"),
            ["does not see /dev/dri/renderD128 (PrivateDevices)", "overlaid-gpu.conf", "systemctl restart overlaid"],
        ),
        (INTEL, around("missing", place="container"), ["this container has no", "--device /dev/dri/renderD128"]),
        (INTEL, around("denied"), ["user overlaid may not open", "--append --groups render overlaid", "log in"]),
        (INTEL, around("denied", place="service"), ["--groups render overlaid, then sudo systemctl restart overlaid"]),
        (
            INTEL, around("denied", "", place="service"),
            ['--groups "$(stat -c %g /dev/dri/renderD128)" overlaid, then sudo systemctl restart overlaid'],
        ),
        (INTEL, around("denied", "root"), ["root's alone", 'KERNEL=="renderD128"', "udevadm trigger"]),
        (INTEL, around("forbidden", place="service"), ["not among the service's devices", "systemd/overlaid-gpu.conf"]),
        (INTEL, around("forbidden", place="container"), ["this container may open", "--device /dev/dri/renderD128"]),
        (
            NVIDIA, Surroundings((Node("/dev/nvidia0", "missing"),), place="container"),
            ["this container has no /dev/nvidia0", "--gpus all"],
        ),
        (
            NVIDIA, Surroundings((Node("/dev/nvidia0", "open"), Node("/dev/nvidia-uvm", "missing"))),
            ["/dev/nvidia-uvm is missing", "nvidia-modprobe -u -c 0", "nvidia-persistenced"],
        ),
        (
            NVIDIA, Surroundings(nvidia_driver="535.183.01", nvidia_libraries=("550.54.14",)),
            ["driver is 535.183.01, its library 550.54.14", "restart the machine"],
        ),
        (NVIDIA, Surroundings(nvidia_driver="535.183.01"), ["library of NVIDIA's driver 535.183.01", "libcuda1"]),
        (
            INTEL, Surroundings((Node(RENDER, "failing", "render", "No such device"),)),
            ["does not open (No such device)", "dmesg"],
        ),
    ],
)  # fmt: skip
def test_each_cause_names_the_next_step(gpu: Gpu, seen: Surroundings, texts: list[str]) -> None:
    (line,) = explain(gpu, seen)
    assert all(text in line for text in texts), line
    assert problems_of(gpu, seen, {"opencl": "no device"}, works=False) == (f"gpu: {line}",)


@pytest.mark.parametrize("libraries", [("535.183.01",), ("535.183.01", "550.54.14")])
def test_a_library_of_the_drivers_version_is_fine(libraries: tuple[str, ...]) -> None:
    seen = Surroundings(nvidia_driver="535.183.01", nvidia_libraries=libraries)
    assert explain(NVIDIA, seen) == ()


def test_nothing_is_wrong() -> None:
    assert problems_of(INTEL, FINE, {}, works=True) == ()
    assert problems_of(INTEL, around("denied"), {}, works=True) == ()  # who cares: every route works


@pytest.mark.parametrize(("gpu", "what"), [(INTEL, "onnxruntime-openvino"), (NVIDIA, "onnxruntime-gpu")])
def test_nothing_is_installed_for_it(gpu: Gpu, what: str) -> None:
    (line,) = problems_of(gpu, FINE, {}, works=False)
    assert line.startswith(f"gpu: no runtime that is installed uses it ({gpu.name})")
    assert what in line


def test_routes_speak_where_nothing_below_is_wrong() -> None:
    lines = problems_of(INTEL, FINE, {"opencl": "no driver", "litert": "no Vulkan"}, works=False)
    assert lines == ("gpu: litert: no Vulkan", "gpu: opencl: no driver")


def test_a_cause_below_explains_all_but_missing_libraries() -> None:
    said = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    lines = problems_of(INTEL, around("denied"), {"cuda": said, "opencl": "no device"}, works=False)
    assert len(lines) == 2
    assert "usermod" in lines[0]
    assert "libcudnn.so.9 cannot be found" in lines[1]


def test_a_jetson_needs_another_drop_in_beside() -> None:
    gpu = Gpu("gpu", "NVIDIA Tegra", "nvidia", None, 0, "nvgpu", ("/dev/nvhost-gpu",))
    (line,) = explain(gpu, Surroundings((Node("/dev/nvhost-gpu", "missing"),), "overlaid", "service"))
    assert "overlaid-gpu.conf" in line and "overlaid-jetson.conf" in line and "daemon-reload" in line


def test_what_another_route_does_not_need_is_told_beside_the_one_that_fails() -> None:
    lines = problems_of(INTEL, around("denied"), {"openvino": "no GPU"}, works=True)
    assert len(lines) == 2
    assert lines[1] == "gpu: openvino: no GPU"


LOAD = (
    "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_{}.so with error: {}: cannot open "
    "shared object file: No such file or directory"
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (LOAD.format("cuda", "libcudnn.so.9"), "libcudnn.so.9 cannot be found; install cuDNN: pip install"),
        (LOAD.format("cuda", "libcublasLt.so.12"), "libcublasLt.so.12 cannot be found; install CUDA's libraries"),
        (LOAD.format("cuda", "libcuda.so.1"), "libcuda.so.1 cannot be found; install the NVIDIA driver's library"),
        (LOAD.format("tensorrt", "libnvinfer.so.10"), "libnvinfer.so.10 cannot be found; install TensorRT"),
        (LOAD.format("migraphx", "libmigraphx_c.so.3"), "libmigraphx_c.so.3 cannot be found; install ROCm's package"),
        (LOAD.format("x", "libfoo-1.2.so.7"), "libfoo-1.2.so.7 cannot be found; install the package that has it"),
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", "too old for this CUDA"),
        ("CUDA error 209: no kernel image is available for execution on the device", "no code for a GPU of this"),
        ("Failed to get a WebGPU adapter: No supported adapters", "Vulkan offers no GPU; install its Vulkan driver"),
        ("some words of its own", "some words of its own"),
    ],
)  # fmt: skip
def test_what_providers_say_becomes_a_cause_and_a_step(text: str, shown: str) -> None:
    assert shown in shorten(text)


def test_long_words_are_cut() -> None:
    assert len(shorten("word " * 200)) == 240


def test_a_software_gpu_has_nothing_below() -> None:
    assert explain(find_gpus(software=True)[0], Surroundings()) == ()


def test_the_surroundings_of_an_nvidia_gpu(tmp_path: Path) -> None:
    root = unpack("nvidia-desktop", tmp_path)
    intel, nvidia = find_gpus(root)
    seen = look_around(nvidia, root, {})
    assert [node.state for node in seen.nodes] == ["open"] * 3
    assert (seen.nvidia_driver, seen.nvidia_libraries) == ("535.183.01", ("535.183.01",))
    assert seen.place == "machine"
    assert explain(nvidia, seen) == ()
    assert look_around(intel, root, {}).nvidia_driver == ""


def test_the_open_driver_says_its_version_too(tmp_path: Path) -> None:
    root = unpack("nvidia-server", tmp_path)
    seen = look_around(find_gpus(root)[0], root, {})
    assert seen.nvidia_driver == "570.124.06"
    assert "libcuda1" in explain(find_gpus(root)[0], seen)[0]


@pytest.mark.parametrize(
    ("mark", "environment", "place"),
    [
        ("", {}, "machine"),
        ("", {"INVOCATION_ID": "f" * 32}, "service"),
        (".dockerenv", {"INVOCATION_ID": "f" * 32}, "container"),
        ("run/.containerenv", {}, "container"),
        ("", {"container": "lxc"}, "container"),
    ],
)
def test_where_this_process_runs(tmp_path: Path, mark: str, environment: dict[str, str], place: str) -> None:
    if mark:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    assert look_around(INTEL, tmp_path, environment).place == place


def test_a_group_that_this_user_namespace_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service with PrivateUsers sees the group render as nogroup."""
    root = unpack("intel-laptop", tmp_path)
    gid = (root / RENDER.lstrip("/")).stat().st_gid
    monkeypatch.setattr(surroundings, "UNMAPPED", gid + 1)
    (node,) = look_around(INTEL, root, {}).nodes
    assert node.group == (root / RENDER.lstrip("/")).group()
    monkeypatch.setattr(surroundings, "UNMAPPED", gid)
    (node,) = look_around(INTEL, root, {}).nodes
    assert (node.state, node.group) == ("open", "")


@pytest.mark.parametrize(
    ("number", "state"), [(errno.EACCES, "denied"), (errno.EPERM, "forbidden"), (errno.ENXIO, "failing")]
)
def test_why_a_node_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, state: str
) -> None:
    root = unpack("intel-laptop", tmp_path)

    def refuse(path: Path, _flags: int) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", refuse)
    (node,) = look_around(INTEL, root, {}).nodes
    assert node.state == state
    assert node.group == (root / "dev/dri/renderD128").group()


def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    assert look_around(INTEL, tmp_path, {}).nodes == (Node(RENDER, "missing"),)
