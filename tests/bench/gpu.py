"""Every route to the GPUs of this machine, with models/camera-digits; without a GPU on what stands in for one.

``ROUTE_MODEL_ms``: a sample's time, transfers included; ``*_load_s``: loading, with nothing kept of earlier; both as a
session in the agent does it. ``*_over_cpu``: how many times as long the CPU takes on one core (ONNX Runtime or LiteRT,
numpy for the program), measured by turns; ``*_difference``: the largest of an output from the CPU's, as a share of the
largest output. A route that is not here, and a model that is refused, say why; ``dscnn`` is
MLPerf Tiny's. The stand-ins are SwiftShader (webgpu, litert), OpenVINO's CPU device (in .venv-gpu) and PoCL (opencl):
they show that the routes work, and how slow a GPU that is none would be.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.devices.cpu import CpuDevice
from agent.devices.gpu.device import GpuDevice, local_gpus
from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.providers import PROVIDERS
from agent.devices.gpu.routes import ROUTES
from agent.errors import one_line
from agent.hal import ModelFile, Session
from agent.hal.device import Tensors
from agent.types import TensorSpec
from tests.bench.harness import Figure, main
from tests.bench.opencl import GPU_PYTHON
from tests.contract.software_vulkan import DRIVERS
from tests.pocl import pocl_vendors
from tests.system import mlperf

CAMERA = Path(__file__).resolve().parents[2] / "models/camera-digits"
IMAGE, LOGITS = TensorSpec("image", "FP32", (-1, 1, 64, 64)), TensorSpec("logits", "FP32", (-1, 10))
SOUND, WORDS = TensorSpec("input_1", "INT8", (-1, 49, 10, 1)), TensorSpec("Identity", "INT8", (-1, 12))
# By kind and name: file, input, output.
MODELS = {
    "onnx": {
        "fp32": (CAMERA / "camera-digits-fp32.onnx", IMAGE, LOGITS),
        "int8": (CAMERA / "camera-digits-int8.onnx", IMAGE, LOGITS),
    },
    "tflite": {
        "int8": (CAMERA / "camera-digits-int8.tflite", IMAGE, LOGITS),
        "dscnn": (mlperf.FOLDER / mlperf.MODELS["dscnn-int8"], SOUND, WORDS),
    },
    "npu": {"int8": (CAMERA / "camera-digits-int8.onnx", IMAGE, LOGITS)},  # compiled
}
ON_CPU = {"onnx": "onnxruntime", "tflite": "litert", "npu": "program"}
ROUNDS, TURN_S = 9, 0.05
UNITS = {"ms": "ms", "load_s": "s", "over_cpu": "x", "difference": ""}


def measure() -> Mapping[str, Figure]:
    gpus = local_gpus() or local_gpus(software=True)
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | stand_ins(Path(folder)) if gpus[0].software else dict(os.environ)
        for gpu in gpus:
            for name, route in ROUTES.items():
                prefix = name if len(gpus) == 1 else f"{gpu.id}_{name}"
                figures |= _figures(prefix, route.formats[0], _ask(name, gpu, environment))
    return figures


def stand_ins(folder: Path) -> dict[str, str]:
    """The environment in which software plays a GPU, as far as it is here."""
    vulkan = next((str(path) for path in DRIVERS if path.exists()), "")
    return {
        "OCL_ICD_VENDORS": pocl_vendors(folder),
        "VK_ICD_FILENAMES": vulkan,
        "XDG_RUNTIME_DIR": str(folder),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }


def _ask(route: str, gpu: Gpu, environment: Mapping[str, str]) -> dict[str, Any]:
    """Values by variant, or the reason for having none; in a process of its own, of which runtimes take a lot."""
    if not ROUTES[route].fits(gpu):
        vendors = ", ".join(ROUTES[route].vendors)
        return {"missing": f"not run: it needs a GPU of {vendors}, and here is {gpu.name}"}
    pythons = [sys.executable, str(GPU_PYTHON)] if GPU_PYTHON.exists() else [sys.executable]
    answer: dict[str, Any] = {}
    for python in pythons:
        command = [python, "-m", "tests.bench.gpu", route, json.dumps(asdict(gpu))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"missing": " ".join(done.stderr.split())[-200:]}
        answer = json.loads(done.stdout.splitlines()[-1])
        if "missing" not in answer:
            break
    return answer


def _figures(prefix: str, kind: str, answer: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    if "missing" in answer:
        yield f"{prefix}_ms", Figure(None, "ms", missing=answer["missing"])
        return
    for name in MODELS[kind]:
        found = answer[name]
        for what, unit in UNITS.items():
            if what in found or what == "ms":
                yield f"{prefix}_{name}_{what}", Figure(found.get(what), unit, missing=found.get("missing"))


def measure_route(route: str, gpu: Gpu) -> dict[str, Any]:
    """In the process: see ``_ask``."""
    found = ROUTES[route]
    if not _is_here(route):
        return {"missing": f"not run: it is not installed; {found.install}"}
    kind = found.formats[0]
    answer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, source, target) in MODELS[kind].items():
            try:
                file = _program(path, Path(folder)) if kind == "npu" else path
                cache = Path(folder) / "engines"
                model = ModelFile(file, kind, (source,), (target,), 1, cache=cache)
                answer[name] = _measure_model(route, gpu, model)
            except Exception as error:  # a runtime may say anything
                answer[name] = {"missing": one_line(error)[:120]}
    return answer


def _is_here(route: str) -> bool:
    if route not in PROVIDERS:
        return ROUTES[route].installed
    try:
        from agent.devices.gpu.providers import installed_providers

        return route in installed_providers()
    except ImportError:
        return False


def _program(path: Path, folder: Path) -> Path:
    from agent.overlay.compiler import compile_model
    from agent.overlay.programfile import write_program
    from agent.overlay.spec import load_spec

    compiled = folder / "model.npu"
    compiled.write_bytes(write_program(compile_model(path, load_spec("npu"))))
    return compiled


def _measure_model(route: str, gpu: Gpu, file: ModelFile) -> dict[str, float]:
    import numpy as np

    (spec,) = file.inputs
    values = np.random.default_rng(1).random(spec.concrete(), np.float32)
    image = {spec.name: values if spec.dtype == "FP32" else (100 * values).astype(spec.dtype.lower())}
    started = time.perf_counter()
    session = GpuDevice(gpu).open(file, route)
    session.run(image)
    load_s = time.perf_counter() - started
    try:
        beside = CpuDevice().open(file, ON_CPU[file.format])
        difference = _difference(session.run(image).outputs, beside.run(image).outputs)
        here, there = _take_turns([_runner(session, image), _runner(beside, image)])
    finally:
        session.close()
    return {"ms": 1e3 * here, "load_s": load_s, "over_cpu": there / here, "difference": difference}


def _difference(found: Tensors, wanted: Tensors) -> float:
    return max(
        float(abs(found[name].astype(float) - right).max() / abs(right.astype(float)).max())
        for name, right in wanted.items()
    )


def _runner(session: Session, image: Any) -> Callable[[], object]:
    return lambda: session.run(image)


def _take_turns(ways: list[Callable[[], object]]) -> list[float]:
    """Seconds of each, the median of ROUNDS turns."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, each in zip(ways, times, strict=True):
            count, started = 0, time.perf_counter()
            while not count or (spent := time.perf_counter() - started) < TURN_S:
                way()
                count += 1
            each.append(spent / count)
    return [statistics.median(each) for each in times]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        from pydantic import TypeAdapter

        print(f"\n{json.dumps(measure_route(sys.argv[1], TypeAdapter(Gpu).validate_json(sys.argv[2])))}")
    else:
        sys.exit(main(measure, __doc__))
