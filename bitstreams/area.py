"""Area of the overlays on an xc7z020, from Yosys: ``python -m bitstreams.area [OVERLAY...]`` (``make area``).

Writes ``npu/release/area.json`` and ``area.md``; exit code 1 when an overlay is larger than its share of the device.
Estimates of an open synthesiser before placement: no timing, no power, and no claim about what Vivado makes of it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bitstreams import FOLDER

RTL = FOLDER / "npu" / "rtl"  # of every overlay: they differ in their parameters
RELEASE = FOLDER / "npu" / "release"
TOP = "npu_top"
OVERLAYS = ("npu", "npu-small")
DEVICE = {"LUT": 53_200, "FF": 106_400, "DSP": 220, "BRAM36": 140}  # xc7z020
SHARES = {"LUT": 0.50, "DSP": 0.80, "BRAM36": 0.75}  # of the device, at most
SCRIPT = (
    "read_verilog -sv -I {include} {sources}; synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top}; "
    "tee -q -o {output} stat -json"
)
QUIET = (
    "-w",
    "Resizing cell port",
    "-w",
    "Replacing memory",
)  # remarks on its own block RAMs and on small arrays
# LUTs (or their sites, for memories and shift registers in LUTs), registers, multipliers and 36 Kb memories of a cell.
CELLS: dict[str, tuple[str, float]] = {
    **{f"LUT{inputs}": ("LUT", 1) for inputs in range(1, 7)},
    "SRL16E": ("LUT", 1), "SRLC16E": ("LUT", 1), "SRLC32E": ("LUT", 1),
    "RAM32X1S": ("LUT", 1), "RAM64X1S": ("LUT", 1), "RAM32X1D": ("LUT", 2), "RAM64X1D": ("LUT", 2),
    "RAM128X1S": ("LUT", 2), "RAM128X1D": ("LUT", 4), "RAM256X1S": ("LUT", 4),
    "RAM32M": ("LUT", 4), "RAM64M": ("LUT", 4),
    "FDRE": ("FF", 1), "FDSE": ("FF", 1), "FDCE": ("FF", 1), "FDPE": ("FF", 1),
    "DSP48E1": ("DSP", 1), "RAMB18E1": ("BRAM36", 0.5), "RAMB36E1": ("BRAM36", 1),
}  # fmt: skip
FREE = frozenset({"CARRY4", "MUXF7", "MUXF8", "INV"})  # parts of the same slices, or absorbed


def figures(cells: Mapping[str, int]) -> dict[str, float]:
    """Resources by kind. ValueError for a cell that is in neither table: it would be missing from the sum."""
    total = dict.fromkeys(DEVICE, 0.0)
    for cell, count in cells.items():
        if cell in FREE:
            continue
        if cell not in CELLS:
            raise ValueError(f"{cell} is not counted: add it to CELLS in bitstreams/area.py")
        kind, each = CELLS[cell]
        total[kind] += each * count
    return total


def excesses(total: Mapping[str, float]) -> list[str]:
    """What is above its share of the device, as sentences."""
    return [
        f"{total[kind]:g} {kind} are {total[kind] / DEVICE[kind]:.1%} of the device, above {share:.0%}"
        for kind, share in SHARES.items()
        if total[kind] > share * DEVICE[kind]
    ]


def synthesise(overlay: str, top: str = TOP) -> dict[str, int]:
    """Cells of the flattened overlay by type (minutes). CalledProcessError with Yosys's own words on stderr."""
    sources = " ".join(str(path) for path in sorted(RTL.glob("*.sv")))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "stat.json"
        script = SCRIPT.format(include=FOLDER / overlay, sources=sources, top=top, output=output)
        subprocess.run(["yosys", "-q", *QUIET, "-p", script], check=True)
        # Yosys 0.23 writes a comma before some closing braces.
        text = re.sub(r",(\s*[}\]])", r"\1", output.read_text())
    cells: dict[str, int] = json.loads(text)["design"]["num_cells_by_type"]
    return cells


def shares(report: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, dict[str, float]]]:
    """How many of each kind, and what share of the device that is."""
    return {
        overlay: {
            kind: {"count": count, "share": round(count / DEVICE[kind], 4)} for kind, count in total.items()
        }
        for overlay, total in report.items()
    }


def page(report: Mapping[str, Mapping[str, float]], version: str) -> str:
    """``area.md``: a table of all overlays."""
    lines = [
        "# Area on an xc7z020",
        "",
        f"Made by `make area` with {version} (`synth_xilinx -family xc7 -flatten`). Estimates before placement;",
        "they say nothing about timing.",
        "",
        "| Overlay | " + " | ".join(DEVICE) + " |",
        "|---|" + "---|" * len(DEVICE),
    ]
    for overlay, total in report.items():
        cells = (f"{total[kind]:,g} ({total[kind] / DEVICE[kind]:.1%})" for kind in DEVICE)
        lines.append(f"| {overlay} | " + " | ".join(cells) + " |")
    lines.append("| device | " + " | ".join(f"{amount:,}" for amount in DEVICE.values()) + " |")
    limits = (f"{SHARES[kind]:.0%}" if kind in SHARES else "" for kind in DEVICE)
    lines.append("| at most | " + " | ".join(limits) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Synthesise the overlays named (all of them: write the report); 1 when one is too large."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overlay", nargs="*", help=f"of {', '.join(OVERLAYS)}; all when left out")
    parser.add_argument("--top", default=TOP, help="another module than npu_top; prints its figures only")
    arguments = parser.parse_args()
    chosen = arguments.overlay or OVERLAYS
    version = subprocess.run(["yosys", "-V"], check=True, capture_output=True, text=True).stdout
    report = {overlay: figures(synthesise(overlay, arguments.top)) for overlay in chosen}
    text = page(report, version.split(" (")[0])
    print(text)
    if arguments.top != TOP:
        return 0
    if not arguments.overlay:
        RELEASE.mkdir(exist_ok=True)
        table = {"yosys": version.strip(), "script": SCRIPT, "device": DEVICE, "overlays": shares(report)}
        (RELEASE / "area.json").write_text(json.dumps(table, indent=2) + "\n")
        (RELEASE / "area.md").write_text(text)
    problems = [f"{overlay}: {each}" for overlay in report for each in excesses(report[overlay])]
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
