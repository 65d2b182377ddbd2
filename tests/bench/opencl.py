"""Overlay programs by OpenCL on this CPU: on PoCL, and on Intel's OpenCL where `make gpu` made its environment.

``*_peak``: multiply-accumulates a second that the device reaches at most, measured with operands that never leave
registers (``peaks``). ``*_enqueue_us``: an empty kernel of a long chain. Of each net: ``*_ms``, a sample's wall time,
transfers and host operators included; ``*_of_peak``, ``*_of_peak_best`` and ``*_of_peak_worst``: what share of the
larger of both peaks its convolutions reach by the device's own clock, the median's, the best and the worst layer's;
``*_batch16``: how many times as many samples in the same time when 16 come at once; ``*_over_numpy`` and
``*_over_onnxruntime``: how many times as long the functional model and ONNX Runtime (the same integer layers) take,
measured by turns: below 1 OpenCL loses, as it does to ONNX Runtime. ``camera`` is models/camera-digits; MLPerf Tiny's
nets are missing where they are not. All on one core of the CPU, as workers are unless their models ask for more.

``--device NAME`` measures one device (part of its or its platform's name) in this process instead: for machines that
have a GPU. ``--layers`` prints a table of its layers first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.cli.output import print_table
from agent.overlay.compiler import compile_model
from agent.overlay.programfile import write_program
from agent.overlay.spec import load_spec
from agent.serving.processes.limits import maths_threads
from tests.bench.harness import Figure, show
from tests.gpu.intel import intel_vendors
from tests.pocl import pocl_vendors
from tests.system.mlperf import FOLDER, MODELS

ROOT = Path(__file__).resolve().parents[2]
GPU_PYTHON = ROOT / ".venv-gpu/bin/python"
CAMERA = ROOT / "models/camera-digits/camera-digits-int8.onnx"
NETS = {
    "resnet8": FOLDER / MODELS["resnet8-int8"],
    "dscnn": FOLDER / MODELS["dscnn-int8"],
    "mobilenet025": FOLDER / MODELS["vww-int8"],
    "camera": CAMERA,
}
OF_NET = {
    "ms": "ms", "of_peak": "", "of_peak_best": "", "of_peak_worst": "", "batch16": "x", "over_numpy": "x",
    "over_onnxruntime": "x",
}  # fmt: skip
AT_LEAST = {f"{net}_over_numpy": 1.0 for net in ("resnet8", "dscnn", "mobilenet025")}
UNITS = {"int8_peak": "GMAC/s", "fp32_peak": "GMAC/s", "enqueue_us": "us"}


def main() -> int:
    """Run it and print the figures. A missed target is shown, not an exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: figure → value, unit, target, met"
    )
    parser.add_argument("--device", help="measure this device only: part of its name or its platform's")
    parser.add_argument("--layers", action="store_true", help="with --device: a table of the layers")
    parser.add_argument("--programs", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = asked.programs or write_programs(Path(folder))
        if asked.device:
            figures = measure_one(asked.device, programs, asked.layers and not asked.json)
        else:
            figures = measure_cpu(Path(folder), programs)
    show({name: figure.to_json() for name, figure in figures.items()}, asked.json)
    return 0


def write_programs(folder: Path) -> Path:
    """The nets that are here, as program files."""
    for name, path in NETS.items():
        if path.is_file():
            (folder / f"{name}.npu").write_bytes(write_program(compile_model(path, load_spec("npu"))))
    return folder


def measure_one(name: str, programs: Path, layers: bool) -> dict[str, Figure]:
    """One device, as this environment finds it."""
    answer, missing = _child(sys.executable, {}, name, programs)
    if layers and not missing:
        print_table(("NET", "LAYER", "KIND", "US", "GMAC/S", "OF PEAK"), answer["layers"])
    return dict(_figures("opencl", answer, missing))


def measure_cpu(folder: Path, programs: Path) -> dict[str, Figure]:
    """This CPU with each driver, in processes of their own."""
    pocl = {"OCL_ICD_VENDORS": pocl_vendors(folder / "pocl")}
    figures = dict(_figures("pocl", *_child(sys.executable, pocl, "Portable", programs)))
    if not GPU_PYTHON.exists():
        return figures | dict(_figures("intel", {}, ".venv-gpu is not there; run `make gpu`"))
    library = GPU_PYTHON.parents[1] / "lib/libintelocl.so"
    intel = {"OCL_ICD_VENDORS": intel_vendors(folder / "intel", library)}
    return figures | dict(_figures("intel", *_child(str(GPU_PYTHON), intel, "Intel", programs)))


def _child(
    python: str, extra: Mapping[str, str], device: str, programs: Path
) -> tuple[Mapping[str, Any], str]:
    """What ``opencl_device`` tells of a device in a process of its own, or why there is nothing."""
    command = [python, "-m", "tests.bench.opencl_device", device, str(programs)]
    environment = {**os.environ, **maths_threads(1), **extra}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {}, " ".join(done.stderr.split())[-200:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer, ""


def _figures(prefix: str, answer: Mapping[str, Any], missing: str) -> Iterator[tuple[str, Figure]]:
    values: Mapping[str, float] = answer.get("values", {})
    for name, unit in UNITS.items():
        yield f"{prefix}_{name}", Figure(values.get(name), unit, missing=missing)
    for net, path in NETS.items():
        for what, unit in OF_NET.items():
            name = f"{net}_{what}"
            why = missing if path.is_file() else f"{path} is not there; set OVERLAID_MLPERF_TINY"
            target = AT_LEAST.get(name)
            yield f"{prefix}_{name}", Figure(values.get(name), unit, at_least=target, missing=why)


if __name__ == "__main__":
    sys.exit(main())
