from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.devices.opencl import icds, platforms
from agent.devices.opencl.platforms import (
    MAX_DEVICES,
    MAX_PLATFORMS,
    ClDevice,
    best_cpu,
    examine,
    find_devices,
    handle,
    traits_of,
)
from agent.errors import DeviceLost, RuntimeUnavailable

CPU, GPU, ACCELERATOR, CUSTOM, DEFAULT = 2, 4, 8, 16, 1
numbers = iter(range(1, 10_000))


@dataclass
class Handle:
    """What of a pyopencl.Device is asked; one that fits."""

    name: str = "GeForce"
    type: int = GPU
    version: str = "OpenCL 3.0 CUDA"
    driver_version: str = "550.1"
    vendor: str = "NVIDIA"
    profile: str = "FULL_PROFILE"
    extensions: str = "cl_khr_icd cl_khr_integer_dot_product"
    available: bool = True
    compiler_available: bool = True
    endian_little: bool = True
    single_fp_config: int = 0xBF
    global_mem_size: int = 8 << 30
    max_mem_alloc_size: int = 2 << 30
    max_compute_units: int = 20
    max_work_group_size: int = 1024
    int_ptr: int = field(default_factory=lambda: next(numbers))
    platform: Any = None


def platform(*handles: object, name: str = "NVIDIA CUDA") -> Any:
    made = SimpleNamespace(name=name, get_devices=lambda: list(handles))
    for each in handles:
        if isinstance(each, Handle):
            each.platform = made
    return made


def query(**values: bytes) -> Callable[[Any, int, int], bytes]:
    """Answers clGetDeviceInfo's questions: p4210=b"…" by the parameter's number in hex."""
    table = {int(name[1:], 16): value for name, value in values.items()}
    return lambda _handle, parameter, nbytes: table.get(parameter, b"")[:nbytes]


def one(given: Handle, **values: bytes) -> ClDevice:
    (device,), problems = examine([platform(given)], query(**values))
    assert problems == []
    return device


def why(given: Handle) -> str:
    devices, (problem,) = examine([platform(given)], query())
    assert devices == []
    return problem


def test_what_a_device_is() -> None:
    assert one(Handle(), p1073=b"\3" + bytes(7)) == ClDevice(
        "NVIDIA CUDA", "GeForce", "gpu", "OpenCL 3.0 CUDA", "550.1", "NVIDIA", 8 << 30, 2 << 30, 20, 1024, True, None,
        (0, 0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("type", "kind"),
    [(CPU, "cpu"), (GPU | DEFAULT, "gpu"), (ACCELERATOR, "accelerator"), (CPU | GPU, "gpu")],
)
def test_kinds(type: int, kind: str) -> None:
    assert one(Handle(type=type)).kind == kind


@pytest.mark.parametrize(
    ("extensions", "capabilities", "dot"),
    [
        ("cl_khr_integer_dot_product", b"\1" + bytes(7), True),
        ("cl_khr_integer_dot_product", b"\2" + bytes(7), False),  # unpacked only
        ("cl_khr_integer_dot_product", b"", False),
        ("cl_khr_integer_dot_product_2", b"\3" + bytes(7), False),
    ],
)
def test_dot_products(extensions: str, capabilities: bytes, dot: bool) -> None:
    assert one(Handle(extensions=extensions), p1073=capabilities).dot == dot


def test_dot_products_are_not_asked_for_without_the_extension() -> None:
    assert not one(Handle(extensions=""), p1073=b"\3" + bytes(7)).dot


@pytest.mark.parametrize(
    ("values", "pci"),
    [
        ({"p410F": struct.pack("<4I", 1, 0x3B, 31, 7)}, "0001:3b:1f.7"),
        ({"p410F": struct.pack("<4I", 1, 256, 0, 0)}, None),
        ({"p410F": struct.pack("<3I", 1, 2, 3)}, None),
        ({"p4008": struct.pack("<I", 0x65), "p4009": struct.pack("<I", 0x0A)}, "0000:65:01.2"),
        (
            {"p4008": struct.pack("<I", 1), "p4009": bytes(4), "p400A": struct.pack("<I", 0x10000)},
            "10000:01:00.0",
        ),
        ({"p4008": struct.pack("<I", 0x65)}, None),
        ({"p4037": struct.pack("<I17xBBB", 1, 0x03, 0, 1)}, "0000:03:00.1"),
        ({"p4037": struct.pack("<I17xBBB", 2, 0x03, 0, 1)}, None),
        ({}, None),
    ],
)
def test_where_on_the_bus(values: dict[str, bytes], pci: str | None) -> None:
    assert one(Handle(), **values).pci == pci


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Handle(available=False), "GeForce is not available, says its driver"),
        (Handle(compiler_available=False), "comes without a compiler"),
        (Handle(endian_little=False), "big-endian"),
        (Handle(version="OpenCL 1.1 Mesa 22.3"), "has OpenCL 1.1 Mesa 22.3; the kernels need OpenCL 1.2"),
        (Handle(version="Vulkan"), "has Vulkan; the kernels need"),
        (Handle(single_fp_config=0xBB), "does not round to nearest"),
        (Handle(profile="EMBEDDED_PROFILE"), "has no 64-bit integers"),
        (Handle(profile="EMBEDDED_PROFILE", single_fp_config=8, extensions="cles_khr_int64"), "round to nearest"),
        (Handle(type=CUSTOM), "of a type of its own"),
        (Handle(max_compute_units="many"), "invalid literal"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_devices_that_are_refused(given: Handle, text: str) -> None:
    assert text in why(given)
    assert why(given).startswith("OpenCL device 0 of NVIDIA CUDA is not usable: ")


def test_an_embedded_profile_may_have_all_that_is_needed() -> None:
    assert one(Handle(profile="EMBEDDED_PROFILE", extensions="cles_khr_int64")).kind == "gpu"


def test_a_card_comes_without_a_compiler() -> None:
    assert one(Handle(type=ACCELERATOR, compiler_available=False)).kind == "accelerator"


def test_a_platform_that_fails_hides_no_other() -> None:
    class Broken:
        name = "Broken"

        def get_devices(self) -> list[object]:
            raise RuntimeError("clGetDeviceIDs failed: OUT_OF_HOST_MEMORY")

    devices, problems = examine([Broken(), platform(object(), Handle())], query())
    assert [device.index for device in devices] == [(1, 1)]
    assert (
        problems[0]
        == "OpenCL platform 0 does not answer: clGetDeviceIDs failed: OUT_OF_HOST_MEMORY; update its driver"
    )
    assert problems[1].startswith("OpenCL device 0 of NVIDIA CUDA is not usable: ")


def test_a_query_that_fails_costs_one_device() -> None:
    def fails(_handle: Any, _parameter: int, _nbytes: int) -> bytes:
        raise OSError("clGetDeviceInfo is not there")

    devices, problems = examine([platform(Handle())], fails)
    assert devices == []
    assert "clGetDeviceInfo is not there" in problems[0]


def test_one_driver_named_twice_is_one_and_two_drivers_are_two() -> None:
    same = Handle()
    devices, _ = examine(
        [platform(same), platform(same), platform(Handle(), name="Clover"), platform(Handle())], query()
    )
    assert [device.index for device in devices] == [(0, 0), (2, 0), (3, 0)]
    assert devices[0].label == "GeForce (NVIDIA CUDA)"
    assert devices[1].label == "GeForce (Clover)"


def test_equal_cards_are_told_apart_by_their_slots() -> None:
    device = one(Handle(), p410F=struct.pack("<4I", 0, 1, 0, 0))
    assert device.label == "GeForce (NVIDIA CUDA, 0000:01:00.0)"


def test_what_drivers_say_is_bounded() -> None:
    crowd = [platform(*(Handle() for _ in range(MAX_DEVICES + 3))) for _ in range(MAX_PLATFORMS + 2)]
    devices, _ = examine(crowd, query())
    assert len(devices) == MAX_PLATFORMS * MAX_DEVICES
    device = one(Handle(name="\x1b[31m a\nb\t " + "x" * 500, max_compute_units=0, max_work_group_size=0))
    assert device.name.startswith("[31m a b x")
    assert len(device.name) == 128
    assert (device.units, device.group) == (1, 1)
    assert one(Handle(name="")).name == "device 0"


def test_traits() -> None:
    device = one(Handle(type=CPU))
    assert traits_of(device).units == 20
    assert traits_of(device, 4).units == 4
    assert traits_of(device, 64).units == 20
    assert (traits_of(device).kind, traits_of(device).dot, traits_of(device).group) == ("cpu", False, 1024)


def test_the_best_of_several_cpus() -> None:
    old = one(Handle(type=CPU, version="OpenCL 2.1 x"))
    new, dot = replace(old, version="OpenCL 3.0"), replace(old, dot=True)
    gpu = one(Handle())
    assert best_cpu([gpu]) is None
    assert best_cpu([gpu, old, new]) == new
    assert best_cpu([new, dot, gpu]) == dot
    assert best_cpu([old, replace(old, index=(1, 0))]) == old


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes pyopencl offer these platforms."""

    def offer(*offered: Any, error: Exception | None = None) -> None:
        def get_platforms() -> list[Any]:
            if error is not None:
                raise error
            return list(offered)

        monkeypatch.setitem(
            sys.modules, "pyopencl", SimpleNamespace(get_platforms=get_platforms, __spec__=object())
        )
        monkeypatch.setattr(platforms, "raw_info", query())

    return offer


def test_a_handle_is_found_where_it_went_and_missed_when_it_is_gone(machine: Callable[..., None]) -> None:
    first, second = Handle(name="A", max_mem_alloc_size=1), Handle(name="B")
    machine(platform(first, second))
    devices, _ = find_devices()
    assert handle(devices[1]) is second
    first.max_mem_alloc_size = 2  # what is free may change
    machine(platform(Handle(type=CPU), name="PoCL"), platform(first))
    assert handle(devices[0]) is first
    with pytest.raises(DeviceLost, match=r"offers B \(NVIDIA CUDA\) no more; see `overlaid devices`"):
        handle(devices[1])
    machine()
    with pytest.raises(RuntimeUnavailable, match="no more"):
        handle(replace(devices[0], kind="cpu"))


def test_of_equal_cards_the_one_at_its_place(machine: Callable[..., None]) -> None:
    cards = [Handle(), Handle()]
    machine(platform(*cards))
    devices, _ = find_devices()
    assert [handle(device) for device in devices] == cards


def test_no_platform(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(error=RuntimeError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR"))
    monkeypatch.setenv("OCL_ICD_VENDORS", "/nonexistent")
    devices, problems = find_devices()
    assert devices == []
    assert problems[-1] == "no OpenCL driver in /nonexistent; for this CPU: sudo apt install pocl-opencl-icd"


def test_a_machine_whose_gpu_is_not_offered_hears_why(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gpu.icd").write_text("/nonexistent/libgpu.so\n")
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    machine(platform(Handle(type=CPU)))
    devices, problems = find_devices()
    assert len(devices) == 1
    assert "names /nonexistent/libgpu.so, which does not load" in problems[0]
    machine(platform(Handle()))
    assert find_devices()[1] == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, icds.NO_PYOPENCL),
        ("import missing_dependency", "pyopencl cannot be imported: No module named 'missing_dependency'"),
        ("raise OSError('libOpenCL.so.1: cannot open')", "cannot be imported: libOpenCL.so.1: cannot open"),
    ],
)
def test_pyopencl_that_is_missing_or_broken(
    code: str | None, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "pyopencl", raising=False)
    if code is None:
        monkeypatch.setitem(sys.modules, "pyopencl", None)
    else:
        (tmp_path / "pyopencl.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
    devices, (problem,) = find_devices()
    assert devices == []
    assert text in problem


def test_pocl_is_found_and_opened() -> None:
    devices, _ = find_devices()
    pocl = next(device for device in devices if device.runtime.startswith("PoCL "))
    assert pocl.kind == "cpu"
    assert pocl.version.startswith("OpenCL ")
    assert pocl.units >= 1
    assert 0 < pocl.max_alloc_bytes <= pocl.memory_bytes
    assert handle(pocl).name == pocl.name
    assert traits_of(pocl, 1).units == 1


def test_raw_questions_reach_the_driver() -> None:
    pocl = next(device for device in find_devices()[0] if device.runtime.startswith("PoCL "))
    kind = platforms.raw_info(handle(pocl), 0x1000, 8)  # CL_DEVICE_TYPE
    assert int.from_bytes(kind, "little") & CPU
    assert platforms.raw_info(handle(pocl), 0x7FFF, 8) == b""
