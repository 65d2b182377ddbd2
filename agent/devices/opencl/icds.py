"""Why OpenCL does not offer a device, from what the system shows: drivers, named by .icd files, and GPUs.

``look`` reads, and loads each driver's library to see whether that works: in a process of its own, never in the
daemon. The rest decides, on what ``look`` found.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.devices.gpu.gpus import Gpu, find_gpus
from agent.errors import one_line

VENDORS = "etc/OpenCL/vendors"
MAX_ICDS, MAX_ICD_BYTES = 32, 4096
NO_PYOPENCL = "pyopencl is not installed; pip install 'overlaid[opencl]'"


@dataclass(frozen=True, slots=True)
class Vendor:
    """``drivers``: words in the names of the libraries of its own OpenCL; ``install``: what to do where there is none.

    ``rusticl``: what RUSTICL_ENABLE calls its GPUs; empty where Mesa's OpenCL knows none of them.
    """

    name: str
    drivers: tuple[str, ...]
    install: str
    rusticl: str = ""


GPU_VENDORS = {
    "nvidia": Vendor(
        "NVIDIA",
        ("nvidia",),
        "install the OpenCL part of its driver (nvidia-opencl-icd, or libnvidia-compute-… of the driver's version)",
    ),
    "amd": Vendor(
        "AMD",
        ("amdocl",),
        "sudo apt install mesa-opencl-icd, or AMD's rocm-opencl-runtime",
        "radeonsi",
    ),
    "intel": Vendor("Intel", ("igdrcl",), "sudo apt install intel-opencl-icd", "iris"),
    "arm": Vendor(
        "Mali",
        ("mali",),
        "install the board maker's libmali with OpenCL, or sudo apt install mesa-opencl-icd",
        "panfrost",
    ),
    "qualcomm": Vendor(
        "Adreno",
        ("adreno", "qcom"),
        "install the board maker's Adreno OpenCL driver, or sudo apt install mesa-opencl-icd",
        "freedreno",
    ),
    "broadcom": Vendor("VideoCore", (), "sudo apt install mesa-opencl-icd", "v3d"),
}


@dataclass(frozen=True, slots=True)
class Icd:
    """A driver as its file names it. ``problem``: why its library does not load; empty when it does."""

    path: str
    library: str
    problem: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is. ``vendors``: the folder, or file, that names the drivers; ``gpus``: those that the kernel shows;
    ``rusticl``: RUSTICL_ENABLE."""

    pyopencl: bool
    vendors: str
    icds: tuple[Icd, ...]
    gpus: tuple[Gpu, ...]
    rusticl: str


def opencl_problems(root: Path = Path("/")) -> list[str]:
    """Reasons with what to do about each; empty where nothing is wrong. ``root``: another system's files.

    Whether a GPU's files in /dev may be used is told by ``gpu.findings``.
    """
    return problems(look(root))


def problems(found: Findings) -> list[str]:
    """Why there may be no device."""
    if not found.pyopencl:
        return [NO_PYOPENCL]
    lines = driver_problems(found)
    if not (lines or found.icds):
        return [f"no OpenCL driver in {found.vendors}; for this CPU: sudo apt install pocl-opencl-icd"]
    return lines


def driver_problems(found: Findings) -> list[str]:
    """Drivers that are broken, and GPUs for which there is none."""
    vendors = dict.fromkeys(gpu.vendor for gpu in found.gpus if gpu.vendor in GPU_VENDORS)
    gpus = [line for vendor in vendors for line in _of_gpu(GPU_VENDORS[vendor], found)]
    return [*broken_drivers(found), *gpus]


def broken_drivers(found: Findings) -> list[str]:
    """The drivers that are installed and do not load."""
    return [
        f"{icd.path} names {icd.library[:200]}, which does not load ({icd.problem}); install its package again, or "
        f"delete {icd.path}"
        if icd.library
        else f"{icd.path} {icd.problem}; delete it, or install its package again"
        for icd in found.icds
        if icd.problem
    ]


def _of_gpu(vendor: Vendor, found: Findings) -> list[str]:
    if _named(vendor.drivers, found):
        return []
    if not (vendor.rusticl and _named(("rusticl",), found)):
        return [f"no OpenCL driver for the {vendor.name} GPU in {found.vendors}: {vendor.install}"]
    if vendor.rusticl not in found.rusticl:
        return [
            f"Mesa's OpenCL may leave the {vendor.name} GPU out unless asked: set RUSTICL_ENABLE={vendor.rusticl}"
        ]
    return []


def _named(words: Sequence[str], found: Findings) -> bool:
    """Whether a driver's library has one of the words in its name."""
    names = [Path(icd.library).name.lower() for icd in found.icds]
    return any(word in name for word in words for name in names)


def look(
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    load: Callable[[str], str] | None = None,
) -> Findings:
    """What ``root`` holds. ``load`` says why a library does not load, "" when it does; by default it is tried."""
    # What the loader in pyopencl's wheels (ocl-icd) and Khronos's reads.
    named = environ.get("OCL_ICD_VENDORS") or environ.get("OPENCL_VENDOR_PATH")
    vendors = Path(named) if named else root / VENDORS
    return Findings(
        importlib.util.find_spec("pyopencl") is not None,
        str(vendors),
        tuple(_icd(path, load or why_not_loaded) for path in _icd_files(vendors)),
        find_gpus(root),
        environ.get("RUSTICL_ENABLE", ""),
    )


def why_not_loaded(library: str) -> str:
    """What the dynamic linker says against a library; "" when it loads."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return one_line(error)
    return ""


def _icd_files(vendors: Path) -> Sequence[Path]:
    if vendors.is_file():
        return [vendors]
    try:
        return sorted(path for path in vendors.iterdir() if path.suffix == ".icd")[:MAX_ICDS]
    except OSError:
        return []


def _icd(path: Path, load: Callable[[str], str]) -> Icd:
    """The format: the library's path or name on the first line (OpenCL extension specification, cl_khr_icd)."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_ICD_BYTES).decode(errors="replace").splitlines()
    except OSError as error:
        return Icd(str(path), "", f"cannot be read ({error.strerror})")
    library = "".join(filter(str.isprintable, lines[0])).strip() if lines else ""
    return Icd(str(path), library, load(library) if library else "names no library")
