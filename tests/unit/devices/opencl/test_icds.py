from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.devices.gpu.gpus import Gpu
from agent.devices.opencl.icds import (
    GPU_VENDORS,
    MAX_ICDS,
    Findings,
    Icd,
    broken_drivers,
    driver_problems,
    look,
    opencl_problems,
    problems,
    why_not_loaded,
)

INTEL, NVIDIA = Gpu("gpu0", "Arc A380", "intel"), Gpu("gpu1", "NVIDIA T4", "nvidia")
MALI = Gpu("gpu", "Mali-G610", "arm")
VENDORS = "/etc/OpenCL/vendors"


def icd(library: str, problem: str = "") -> Icd:
    return Icd(f"{VENDORS}/a.icd", library, problem)


def findings(*icds: Icd, gpus: tuple[Gpu, ...] = (), rusticl: str = "") -> Findings:
    return Findings(True, VENDORS, icds, gpus, rusticl)


def test_without_pyopencl_nothing_else_matters() -> None:
    found = Findings(False, VENDORS, (icd("libx.so", "it is broken"),), (INTEL,), "")
    assert problems(found) == ["pyopencl is not installed; pip install 'overlaid[opencl]'"]


def test_a_machine_without_gpu_and_driver() -> None:
    assert problems(findings()) == [
        f"no OpenCL driver in {VENDORS}; for this CPU: sudo apt install pocl-opencl-icd"
    ]
    assert driver_problems(findings()) == []


@pytest.mark.parametrize(
    ("gpus", "texts"),
    [
        ((INTEL,), ["the Intel GPU in /etc/OpenCL/vendors: sudo apt install intel-opencl-icd"]),
        ((NVIDIA, INTEL), ["nvidia-opencl-icd", "intel-opencl-icd"]),
        ((MALI,), ["the Mali GPU in /etc/OpenCL/vendors: install the board maker's libmali"]),
        (
            (Gpu("gpu0", "a", "amd"), Gpu("gpu1", "b", "amd")),
            ["rocm-opencl-runtime"],
        ),  # one line for equal GPUs
    ],
)
def test_the_package_that_a_gpu_needs(gpus: tuple[Gpu, ...], texts: list[str]) -> None:
    lines = problems(findings(icd("libpocl.so.2"), gpus=gpus))
    assert len(lines) == len(texts)
    assert all(text in line for text, line in zip(texts, lines, strict=True))


@pytest.mark.parametrize(
    ("vendor", "library"),
    [
        ("intel", "/usr/lib/x86_64-linux-gnu/intel-opencl/libigdrcl.so"),
        ("nvidia", "libnvidia-opencl.so.1"),
        ("amd", "libamdocl64.so"),
        ("arm", "/usr/lib/aarch64-linux-gnu/libmali.so.1"),
        ("arm", "libMaliOpenCL.so.1"),
        ("qualcomm", "libOpenCL_adreno.so.1"),
    ],
)
def test_a_gpu_with_its_vendors_driver(vendor: str, library: str) -> None:
    gpu = Gpu("gpu", "one", vendor)
    assert problems(findings(icd(library), gpus=(gpu,))) == []
    others = [Gpu("gpu", "another", name) for name in GPU_VENDORS if name != vendor]
    assert all(problems(findings(icd(library), gpus=(other,))) for other in others)


def test_a_gpu_of_a_vendor_that_nobody_knows_is_not_guessed_at() -> None:
    assert (
        problems(findings(icd("libpocl.so"), gpus=(Gpu("gpu", "VIP8000", "vivante"), Gpu("gpu1", "?")))) == []
    )


def test_mesas_driver_has_to_be_asked() -> None:
    mesa = icd("libRusticlOpenCL.so.1")
    (line,) = problems(findings(mesa, gpus=(MALI,)))
    assert line.endswith("set RUSTICL_ENABLE=panfrost")
    assert problems(findings(mesa, gpus=(MALI,), rusticl="panfrost:0")) == []
    (line,) = problems(findings(mesa, gpus=(NVIDIA,)))
    assert "nvidia-opencl-icd" in line


def test_broken_drivers_are_named_with_the_linkers_words() -> None:
    found = findings(icd("libpocl.so.2"), icd("libgone.so", "libgone.so: cannot open shared object file"))
    assert broken_drivers(found) == [
        f"{VENDORS}/a.icd names libgone.so, which does not load (libgone.so: cannot open shared object file); install "
        f"its package again, or delete {VENDORS}/a.icd"
    ]
    assert problems(found) == broken_drivers(found)


@pytest.fixture
def root(tmp_path: Path) -> Callable[..., Path]:
    """Another system's files, with these in its folder of drivers."""

    def make(**files: bytes) -> Path:
        folder = tmp_path / "etc/OpenCL/vendors"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / f"{name}.icd").write_bytes(data)
        return tmp_path

    return make


def nothing_loads(library: str) -> str:
    return f"{library[:99]}: no"


def test_what_a_system_shows(root: Callable[..., Path]) -> None:
    folder = root(b=b"libb.so.1\nsecond line\n", a=b"  /opt/liba.so  ", empty=b"", blank=b"\n\n")
    (folder / "etc/OpenCL/vendors/readme.txt").write_text("libc.so")
    found = look(folder, {"RUSTICL_ENABLE": "iris"}, nothing_loads)
    assert [(Path(icd.path).name, icd.library, icd.problem) for icd in found.icds] == [
        ("a.icd", "/opt/liba.so", "/opt/liba.so: no"),
        ("b.icd", "libb.so.1", "libb.so.1: no"),
        ("blank.icd", "", "names no library"),
        ("empty.icd", "", "names no library"),
    ]
    assert (found.rusticl, found.gpus) == ("iris", ())
    assert broken_drivers(found)[-1].endswith(
        "empty.icd names no library; delete it, or install its package again"
    )


def test_what_is_no_list_of_drivers_costs_little(root: Callable[..., Path]) -> None:
    asked: list[str] = []
    folder = root(
        **{f"n{number:03}": b"x" * 10_000 + bytes([0, 255]) for number in range(MAX_ICDS + 5)}, nul=b"a\0b"
    )
    (folder / "etc/OpenCL/vendors/a-folder.icd").mkdir()

    def load(library: str) -> str:
        asked.append(library)
        return ""

    found = look(folder, {}, load)
    assert len(found.icds) == MAX_ICDS
    assert found.icds[0].problem == "cannot be read (Is a directory)"
    assert {len(library) for library in asked} == {4096}


def test_what_is_told_of_a_hostile_name_is_short_and_printable(root: Callable[..., Path]) -> None:
    (line,) = broken_drivers(look(root(a=b"\x1b[2J\0" + b"y" * 4000), {}, nothing_loads))
    assert line.isprintable()
    assert len(line) < 1000


def test_the_environment_may_name_another_folder_or_one_file(root: Callable[..., Path]) -> None:
    folder = root(a=b"liba.so", b=b"libb.so") / "etc/OpenCL/vendors"
    elsewhere = Path("/nonexistent")
    in_folder = look(elsewhere, {"OCL_ICD_VENDORS": str(folder)}, nothing_loads)
    one = look(elsewhere, {"OPENCL_VENDOR_PATH": str(folder / "b.icd")}, nothing_loads)
    assert [icd.library for icd in in_folder.icds] == ["liba.so", "libb.so"]
    assert [icd.library for icd in one.icds] == ["libb.so"]
    assert look(elsewhere, {}, nothing_loads).icds == ()


def test_why_libraries_do_not_load(tmp_path: Path) -> None:
    assert why_not_loaded("libc.so.6") == ""
    assert "cannot open shared object file" in why_not_loaded(str(tmp_path / "libgone.so"))
    torn = tmp_path / "libtorn.so"
    torn.write_bytes(b"\x7fELF")
    assert "libtorn.so" in why_not_loaded(str(torn))


def test_reasons_for_another_systems_files(
    root: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    monkeypatch.delenv("OPENCL_VENDOR_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (line,) = opencl_problems(root(mali=b"/usr/lib/libgone-mali.so"))
    assert (
        "names /usr/lib/libgone-mali.so, which does not load (/usr/lib/libgone-mali.so: cannot open" in line
    )
