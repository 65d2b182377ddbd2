"""One OpenCL device and what else runs programs, measured by turns in this process; see ``opencl``.

``python -m tests.bench.opencl_device NAME FOLDER``: ``Measured`` of the device of that name as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import ClDevice, find_devices, handle, traits_of
from agent.devices.program import FunctionalEngine
from agent.overlay.functional import to_planes
from agent.overlay.graph import Conv
from agent.overlay.program import Part, Program, Segment
from agent.overlay.programfile import read_program
from tests.bench.as_onnx import as_onnx
from tests.bench.peaks import measure_peaks, part_of

THREADS = 1
ROUNDS, TURN_S, BATCH, PROFILES = 15, 0.02, 16, 9
Sample = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """``values`` by figure; ``layers``: net, layer, kind, µs, GMAC/s, share of the peak."""

    values: dict[str, float]
    layers: list[Sequence[Any]]


def measure_device(name: str, programs: Mapping[str, Path]) -> Measured:
    """The device of that name, with the programs whose files are there. LookupError when there is none."""
    device = _find(name)
    threads = THREADS if device.kind == "cpu" else device.units
    peaks = measure_peaks(part_of(handle(device), threads), traits_of(device, threads))
    measured = Measured(
        {
            "int8_peak": peaks.int8 / 1e9,
            "fp32_peak": peaks.fp32 / 1e9,
            "enqueue_us": 1e6 * peaks.enqueue_s,
        },
        [],
    )
    peak = max(peaks.int8, peaks.fp32)
    with tempfile.TemporaryDirectory() as cache:
        for net, path in programs.items():
            if path.is_file():
                program = read_program(path.read_bytes())
                _measure_net(net, program, device, Path(cache), peak, measured)
    return measured


def _find(name: str) -> ClDevice:
    devices, problems = find_devices()
    for device in devices:
        if name.lower() in f"{device.platform} {device.name}".lower():
            return device
    there = ", ".join(device.label for device in devices) or "; ".join(problems)
    raise LookupError(f"no OpenCL device is called {name!r}; there are: {there}")


def _measure_net(
    net: str, program: Program, device: ClDevice, cache: Path, peak: float, into: Measured
) -> None:
    samples = [_sample(program, seed) for seed in range(BATCH)]
    engine = OpenClEngine(program, device, THREADS, cache, profile=True)
    try:
        layers = _profile(engine, program, samples[:1])
    finally:
        engine.close()
    shares = []
    for name, kind, seconds, macs in layers:
        share = macs / seconds / peak if macs else None
        shares += [] if share is None else [share]
        rate = macs / seconds / 1e9 if macs else None
        into.layers.append(
            (net, name[-40:], kind, f"{1e6 * seconds:.1f}", rate and f"{rate:.1f}", share and f"{share:.0%}")
        )
    values = {
        "of_peak": statistics.median(shares),
        "of_peak_best": max(shares),
        "of_peak_worst": min(shares),
    }
    values |= _race(program, device, cache, samples)
    into.values.update({f"{net}_{key}": value for key, value in values.items()})


def _sample(program: Program, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for spec in program.inputs:
        shape = spec.concrete()
        if spec.dtype == "FP32":
            found[spec.name] = rng.random(shape, np.float32)
        else:
            found[spec.name] = rng.integers(-128, 128, shape).astype(np.int8).view(spec.dtype.lower())
    return found


def _no_part(part: Part, given: Sample) -> Sample:
    raise AssertionError("these nets have no CPU segments")


def _profile(
    engine: OpenClEngine, program: Program, samples: Sequence[Sample]
) -> list[tuple[str, str, float, int]]:
    """Layer, kind, seconds (the median's of PROFILES runs), multiply-accumulates."""
    macs = {
        layer.name: layer.macs
        for step in program.steps
        if isinstance(step, Segment)
        for layer in step.layers
        if isinstance(layer, Conv)
    }
    runs = []
    for _ in range(PROFILES + 1):
        engine.execute(samples, _no_part)
        runs.append(engine.last_profile())
    return [
        (times[0].layer, times[0].kind, statistics.median(each.seconds for each in times), macs.get(times[0].layer, 0))
        for times in zip(*runs[1:], strict=True)
    ]  # fmt: skip


def _race(program: Program, device: ClDevice, cache: Path, samples: Sequence[Sample]) -> dict[str, float]:
    engine, golden = OpenClEngine(program, device, THREADS, cache), FunctionalEngine(program)
    try:
        alone, together = samples[:1], samples
        ways: dict[str, Callable[[], object]] = {
            "opencl": lambda: engine.execute(alone, _no_part),
            "batch": lambda: engine.execute(together, _no_part),
            "numpy": lambda: golden.execute(alone, _no_part),
            "onnxruntime": _onnx(program, alone[0]),
        }
        took = _take_turns(ways)
    finally:
        engine.close()
    return {
        "ms": 1e3 * statistics.median(took["opencl"]),
        "batch16": len(samples) * _ratio(took["opencl"], took["batch"]),
        "over_numpy": _ratio(took["numpy"], took["opencl"]),
        "over_onnxruntime": _ratio(took["onnxruntime"], took["opencl"]),
    }


def _ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """The median's of the rounds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _onnx(program: Program, sample: Sample) -> Callable[[], object]:
    """ONNX Runtime with the program's one segment."""
    (segment,) = (step for step in program.steps if isinstance(step, Segment))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(
        as_onnx(program, segment), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    given = {}
    for each in segment.inputs:
        tensor = each.tensor
        some = rng.integers(0, 127, tensor.shape).astype(tensor.dtype.lower())
        planes = to_planes(tensor, sample.get(tensor.name, some))
        given[tensor.name] = planes[None].view(np.uint8) ^ np.uint8(0x80)
    return lambda: session.run(None, given)


def _take_turns(ways: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each, in ROUNDS rounds of TURN_S each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    counts = {name: max(1, round(TURN_S / _seconds(way, 2))) for name, way in ways.items()}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(_seconds(way, counts[name]))
    return times


def _seconds(way: Callable[[], object], count: int) -> float:
    way()
    started = time.perf_counter()
    for _ in range(count):
        way()
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    measured = measure_device(sys.argv[1], {path.stem: path for path in sorted(folder.glob("*.npu"))})
    print(json.dumps(asdict(measured)))
