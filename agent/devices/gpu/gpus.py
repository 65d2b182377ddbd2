"""The GPUs of this machine, as the kernel shows them. Standard library only: a worker asks, too.

Sources: Documentation/ABI/testing/sysfs-bus-pci and the PCI Code and ID Assignment (class codes) for cards; the
kernel's bindings gpu/arm,mali-*.yaml, gpu/brcm,bcm-v3d.yaml and display/msm/gpu.yaml for chips; for vendors' own
drivers what they put into sysfs: Arm's kbase (class/misc/mali0), Qualcomm's KGSL (class/kgsl), NVIDIA's
(/proc/driver/nvidia, from its driver's README) and its nvgpu for Tegra.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

MAX_GPUS = 64
MAX_TEXT = 4096
# Classes. Newer AMD Instincts call themselves processing accelerators.
DISPLAY, ACCELERATOR = "0x03", "0x1200"
# Whoever else shows a display controller makes one without compute: a server's BMC, a virtual machine's frame buffer.
PCI_VENDORS = {"0x10de": ("nvidia", "NVIDIA"), "0x1002": ("amd", "AMD"), "0x8086": ("intel", "Intel")}
# Kernel drivers of GPUs that are part of a chip and compute. Not vc4 and lima, whose GPUs draw only.
CHIPS = {
    "panfrost": ("arm", "Mali"),
    "panthor": ("arm", "Mali"),
    "msm": ("qualcomm", "Adreno"),
    "msm_dpu": ("qualcomm", "Adreno"),
    "msm-mdss": ("qualcomm", "Adreno"),
    "adreno": ("qualcomm", "Adreno"),
    "v3d": ("broadcom", "VideoCore"),
    "etnaviv": ("vivante", "Vivante"),
    "powervr": ("imagination", "PowerVR"),
    "pvrsrvkm": ("imagination", "PowerVR"),
    "nouveau": ("nvidia", "Tegra"),
}
TEGRA_NODES = ("dev/nvhost-gpu", "dev/nvgpu")
# Where there is none of these, no driver reaches a GPU.
NODES = ("dev/dri/renderD*", "dev/nvidiactl", "dev/mali0", "dev/kgsl-3d0", "dev/dxg", *TEGRA_NODES)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``id``: of its device, ``gpu``, or ``gpu0``, ``gpu1`` where there are several.

    ``vendor``: nvidia, amd, intel, arm, qualcomm, broadcom …, or empty where nobody says. ``pci``: its address
    ("0000:01:00.0"); None where it is part of a chip. ``index``: among the vendor's, by PCI address: CUDA's ordinal
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


def find_gpus(root: Path = Path("/"), software: bool = False) -> tuple[Gpu, ...]:
    """Physical GPUs, cards by PCI address and then the chip's own; with ``software`` one that this CPU plays instead.

    ``root``: another system's files. Some GPUs are missing where sysfs is: see ``device.local_gpus``.
    """
    if software:
        return (Gpu("gpu", "software renderer", software=True),)
    return number(_given([*_cards(root), *_chips(root)], root)[:MAX_GPUS])


def number(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The same with the ids and indices that their order gives them."""
    seen: Counter[str] = Counter()
    numbered = []
    for place, gpu in enumerate(gpus):
        name = "gpu" if len(gpus) == 1 else f"gpu{place}"
        numbered.append(replace(gpu, id=name, index=seen[gpu.vendor]))
        seen[gpu.vendor] += 1
    return tuple(numbered)


def has_nodes(root: Path = Path("/")) -> bool:
    """Whether /dev holds anything that a GPU's driver makes."""
    return any(True for pattern in NODES for _ in root.glob(pattern))


def _given(gpus: Sequence[Gpu], root: Path) -> list[Gpu]:
    """Those that are ours: sysfs shows a container all GPUs of its host, /dev the ones that it may use."""
    there = [any((root / node.lstrip("/")).exists() for node in _own_nodes(gpu)) for gpu in gpus]
    sharing = {gpu.vendor for gpu, is_there in zip(gpus, there, strict=True) if is_there}
    return [gpu for gpu, is_there in zip(gpus, there, strict=True) if is_there or gpu.vendor not in sharing]


def _own_nodes(gpu: Gpu) -> list[str]:
    """Those that no other GPU shares."""
    return [node for node in gpu.nodes if re.search(r"\d$", node)]


def _cards(root: Path) -> Iterator[Gpu]:
    """By address: PCI devices that are GPUs of vendors whose GPUs compute."""
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind, vendor = _text(folder / "class"), _text(folder / "vendor")
        driver = _driver(folder)
        is_gpu = kind.startswith(DISPLAY) or (kind.startswith(ACCELERATOR) and driver == "amdgpu")
        if not is_gpu or vendor not in PCI_VENDORS:
            continue
        key, label = PCI_VENDORS[vendor]
        model = f"{label} GPU {vendor[2:]}:{_text(folder / 'device').removeprefix('0x')}"
        nodes = tuple(f"/dev/dri/{path.name}" for path in sorted((folder / "drm").glob("renderD*")))
        if driver == "nvidia":
            model, nodes = _nvidia(root, folder.name, model)
        yield Gpu("", _text(folder / "product_name") or model, key, folder.name, 0, driver, nodes)


def _nvidia(root: Path, address: str, model: str) -> tuple[str, tuple[str, ...]]:
    """The model's name and its files: its own, the driver's, and the one that CUDA needs as well."""
    told = _text(root / "proc/driver/nvidia/gpus" / address / "information")
    name = re.search(r"^Model:\s*(\S.*?)\s*$", told, flags=re.MULTILINE)
    minor = re.search(r"^Device Minor:\s*(\d{1,3})\s*$", told, flags=re.MULTILINE)
    own = f"/dev/nvidia{minor[1]}" if minor else "/dev/nvidia0"
    return name[1] if name else model, (own, "/dev/nvidiactl", "/dev/nvidia-uvm")


def _chips(root: Path) -> Iterator[Gpu]:
    """GPUs that are part of a chip: by Linux's own drivers, else by their vendors'."""
    found = False
    for node in sorted((root / "sys/class/drm").glob("renderD*")):
        folder = node / "device"
        driver = _driver(folder)
        if driver not in CHIPS or _text(folder / "class").startswith("0x"):  # the latter: a card
            continue
        found = True
        vendor, family = CHIPS[driver]
        yield Gpu("", _chip_name(root, folder, family), vendor, None, 0, driver, (f"/dev/dri/{node.name}",))
    if not found:
        yield from _vendors_own(root)


def _vendors_own(root: Path) -> Iterator[Gpu]:
    mali, adreno = root / "sys/class/misc/mali0/device", root / "sys/class/kgsl/kgsl-3d0"
    if mali.exists():
        # "Mali-G610 4 cores r0p0 0xA867"
        model = re.match(r"Mali-\S+", _text(mali / "gpuinfo"))
        name = f"Arm {model[0]}" if model else _chip_name(root, mali, "Mali")
        yield Gpu("", name, "arm", None, 0, _driver(mali) or "mali", ("/dev/mali0",))
    if adreno.exists():
        name = _text(adreno / "gpu_model") or _chip_name(root, adreno / "device", "Adreno")
        yield Gpu("", f"Qualcomm {name}", "qualcomm", None, 0, "kgsl", ("/dev/kgsl-3d0",))
    if "nvidia,tegra" in _text(root / "proc/device-tree/compatible") and _has_nvgpu(root):
        node = next((name for name in reversed(TEGRA_NODES) if (root / name).exists()), TEGRA_NODES[0])
        nodes = (f"/{node}", "/dev/nvmap")
        yield Gpu("", f"NVIDIA Tegra{_board(root)}", "nvidia", None, 0, "nvgpu", nodes)


def _has_nvgpu(root: Path) -> bool:
    return any((root / path).exists() for path in ("sys/module/nvgpu", *TEGRA_NODES))


def _chip_name(root: Path, folder: Path, family: str) -> str:
    """The family, the device tree's word for the GPU, and the board: "Mali (arm,mali-valhall-csf) of Radxa ROCK 5B"."""
    words = _text(folder / "of_node/compatible").split("\0")
    word = next((word for word in words if word.strip()), "")
    return f"{family}{f' ({word.strip()})' if word else ''}{_board(root)}"


def _board(root: Path) -> str:
    model = _text(root / "proc/device-tree/model")
    return f" of {model}" if model else ""


def _driver(folder: Path) -> str:
    link = folder / "driver"
    return link.resolve().name if link.exists() else ""


def _text(path: Path) -> str:
    """ "" when it cannot be read."""
    try:
        with path.open(errors="replace") as file:
            return file.read(MAX_TEXT).strip("\0 \n\t")
    except OSError:
        return ""
