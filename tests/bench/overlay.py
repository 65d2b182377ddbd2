"""The overlay `npu` on its Verilated RTL, with the memory of the figures: a 64-bit port at the core's clock, 40 cycles.

``*_utilisation``: multiply-accumulates of the net by cycles x what the array can do, end to end, transfers included.
``*_ms``: cycles of an inference at 100 MHz, weights that stay on the chip loaded before. ``cycle_model_error``: the
largest difference of the cycle model from the RTL over all layers of all nets, as a share. ``rtl_kcycles_per_s``: of
the simulation, in the fastest run of ResNet-8. ``functional_resnet8_ms``: wall time of ResNet-8 in the golden model,
median. ``*_overlap``: how many times longer samples take one by one than in one run, which packs and unpacks them, and
runs CPU segments, beside an overlay that takes its time at 100 MHz and computes nothing (``paced``), in wall time of
this machine; of MobileNetV1-0.25/96 and of ``composite``, a net whose last convolution is in float on the CPU.
``composite_transfer_ms``: of that net's tensors, there and back. Nets that are not here are missing; MobileNetV1 has
random weights.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.compiler import compile_graph, compile_model
from agent.overlay.counters import SegmentRun
from agent.overlay.cycles import chain_cycles
from agent.overlay.driver import Driver
from agent.overlay.functional import Layers, to_planes
from agent.overlay.program import Program, Segment
from agent.overlay.spec import load_spec
from simulator.overlay.rtl import RtlTransport
from tests.bench.harness import Figure, main
from tests.bench.mobilenet import mobilenet_graph
from tests.bench.paced import composite, measure_overlap
from tests.system.mlperf import FOLDER, MODELS

SPEC = load_spec("npu")
RUNS = 15
NETS = {
    "resnet8": "resnet8-int8",
    "dscnn": "dscnn-int8",
    "vww": "vww-int8",
    "autoencoder": "autoencoder-int8",
}
UTILISATION = {"resnet8": 0.85, "dscnn": 0.60, "vww": 0.50, "mobilenet224": 0.75}
MILLISECONDS = {"resnet8": 0.60, "dscnn": 0.18, "vww": 0.60, "autoencoder": 0.25}


@dataclass(frozen=True, slots=True)
class Measured:
    """A net on the RTL. ``error``: of the cycle model, the worst layer's."""

    utilisation: float
    milliseconds: float
    error: float
    kcycles_per_s: float


def measure() -> Mapping[str, Figure]:
    programs = {name: program for name in NETS if (program := _compiled(name)) is not None}
    measured = {name: _measure(program) for name, program in programs.items()}
    measured["mobilenet224"] = _measure(compile_graph(mobilenet_graph(), SPEC), repeats=1)
    figures = {f"{name}_utilisation": _figure(measured, name, "utilisation", "") for name in UTILISATION}
    figures |= {f"{name}_ms": _figure(measured, name, "milliseconds", "ms") for name in MILLISECONDS}
    figures["cycle_model_error"] = Figure(max(each.error for each in measured.values()), "", at_most=0.02)
    figures["rtl_kcycles_per_s"] = _figure(measured, "resnet8", "kcycles_per_s", "kcycles/s")
    resnet = programs.get("resnet8")
    milliseconds = None if resnet is None else _functional_ms(resnet)
    figures["functional_resnet8_ms"] = Figure(
        milliseconds, "ms", at_most=10, missing=None if resnet else _absent("resnet8")
    )
    mixed, mobilenet = (
        measure_overlap(program, SPEC)
        for program in (composite(SPEC), compile_graph(mobilenet_graph(96, 0.25, 2), SPEC))
    )
    figures["composite_overlap"] = Figure(mixed.ratio, "x")
    figures["composite_transfer_ms"] = Figure(mixed.transfer_ms, "ms")
    figures["mobilenet96_overlap"] = Figure(mobilenet.ratio, "x")
    return figures


def _absent(name: str) -> str:
    return f"{FOLDER / MODELS[NETS[name]]} is not there; set OVERLAID_MLPERF_TINY"


def _figure(measured: Mapping[str, Measured], name: str, field: str, unit: str) -> Figure:
    missing = None if name in measured else _absent(name)
    value = None if missing else float(getattr(measured[name], field))
    if field == "milliseconds":
        return Figure(value, unit, at_most=MILLISECONDS[name], missing=missing)
    return Figure(value, unit, at_least=UTILISATION[name] if field == "utilisation" else 500, missing=missing)


def _compiled(name: str) -> Program | None:
    path = FOLDER / MODELS[NETS[name]]
    return compile_model(path, SPEC) if path.is_file() else None


def _segment(program: Program) -> Segment:
    (segment,) = (step for step in program.steps if isinstance(step, Segment))
    return segment


def _inputs(segment: Segment) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(8)
    shapes = {binding.tensor.name: tuple(map(abs, binding.tensor.shape)) for binding in segment.inputs}
    return {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}


def _measure(program: Program, repeats: int = RUNS) -> Measured:
    segment = _segment(program)
    driver = Driver(RtlTransport(SPEC), SPEC)
    try:
        loaded = driver.load(program)
        inputs = _inputs(segment)
        loaded.run(segment, inputs)  # the first one loads the weights that stay
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            done = loaded.run(segment, inputs)
            times.append(time.perf_counter() - started)
    finally:
        driver.close()
    cycles = done.counters.cycles
    used = program.macs / (SPEC.array.macs * cycles)
    return Measured(used, 1e3 * cycles / SPEC.clock.hz, _error(segment, done), cycles / min(times) / 1e3)


def _error(segment: Segment, done: SegmentRun) -> float:
    """The cycle model's, over each layer."""
    ends = np.cumsum(segment.counts) - 1
    modelled = np.array(chain_cycles(SPEC, segment.data[segment.chain :]).compute_ends)[ends]
    real = np.array(done.compute_ends)[ends]
    layers = np.diff(real, prepend=0)
    return float(np.max(np.abs(np.diff(modelled, prepend=0) - layers) / layers))


def _functional_ms(program: Program) -> float:
    segment = _segment(program)
    layers = Layers(segment.layers)
    inputs = _inputs(segment)
    planes = {
        binding.tensor.name: to_planes(binding.tensor, inputs[binding.tensor.name])
        for binding in segment.inputs
    }
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        layers.run(planes)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
