"""An overlay's folder on disk: its description and the bitstream for this board's chip."""

from __future__ import annotations

import re
from pathlib import Path

from agent.errors import OverlayLoadError, one_line

FAMILIES = {"armv7l": "zynq", "aarch64": "zynquplus"}  # machine: ARCH in Vivado's hardware handoff
MAX_BYTES = 64 << 20  # a .bit or .hwh; the largest Kria's bitstream is 8 MB
HEAD_BYTES = 16 * 1024
_FAMILY = re.compile(rb'<SYSTEMINFO\s[^>]*\bARCH="(\w{1,32})"')


def find_bitstream(folder: Path, machine: str) -> Path:
    """The .bit for the chip of ``machine`` (armv7l or aarch64), beside ``overlay.toml`` or in ``release/``.

    Its .hwh (hardware handoff) lies next to it under the same name and says which chip it is for. Raises
    OverlayLoadError when there is none, or more than one to choose from.
    """
    bits = sorted([*folder.glob("*.bit"), *folder.glob("release/*.bit")])
    fitting = [bit for bit in bits if _family(bit) == FAMILIES.get(machine)]
    if len(fitting) != 1:
        found = ", ".join(f"{bit.relative_to(folder)} ({_family(bit)})" for bit in bits)
        raise OverlayLoadError(
            f"{folder} must hold one bitstream for {FAMILIES.get(machine, machine)}, and holds {found or 'none'}; "
            "make it with bitstreams/npu/vivado/build.tcl"
        )
    _check_neighbours(fitting[0])
    return fitting[0].resolve()


def _family(bit: Path) -> str:
    handoff = bit.with_suffix(".hwh")
    try:
        if max(bit.stat().st_size, handoff.stat().st_size) > MAX_BYTES:
            raise OverlayLoadError(f"{bit} or its .hwh has more than {MAX_BYTES >> 20} MiB")
        with handoff.open("rb") as file:
            match = _FAMILY.search(file.read(HEAD_BYTES))
    except OSError as error:
        raise OverlayLoadError(f"{bit} needs its hardware handoff beside it: {one_line(error)}") from error
    if match is None:
        raise OverlayLoadError(f"{handoff} does not say which chip it is for (SYSTEMINFO ARCH)")
    return match[1].decode()


def _check_neighbours(bit: Path) -> None:
    """pynq would take these instead of the .bit, or load them with it, into the kernel."""
    for suffix in (".xsa", ".xclbin", ".dtbo"):
        if bit.with_suffix(suffix).exists():
            raise OverlayLoadError(f"{bit.with_suffix(suffix)} lies beside {bit.name}; remove it")
