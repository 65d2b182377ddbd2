"""The test nets and random graphs as overlay programs, for every executor that takes programs.

``python -m tests.contract.nets FOLDER`` writes them as files, for an environment that lacks what the compiler needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.devices.parts import open_part
from agent.devices.program import Engine, FunctionalEngine
from agent.overlay.compiler import compile_graph, compile_model
from agent.overlay.program import Part, Program
from agent.overlay.programfile import write_program
from agent.overlay.spec import load_spec
from tests.bench.mobilenet import mobilenet_graph
from tests.bench.paced import composite
from tests.rtl.layers import Sample, random_large, random_layer, random_net
from tests.system import mlperf

ROOT = Path(__file__).resolve().parents[2]
Arrays = Mapping[str, NDArray[Any]]
COMMITTED = (
    "digits/digits-int8.onnx",
    "camera-digits/camera-digits-int8.onnx",
    "camera-digits/camera-digits-int8.tflite",
)
# Of random graphs so many: as many as are run on the RTL.
MANY: Mapping[Callable[[int], Sample], int] = {random_layer: 300, random_net: 60, random_large: 12}
TINY = ("resnet8-int8", "dscnn-int8", "vww-int8", "autoencoder-int8")


def _committed(file: str, overlay: str) -> Program:
    return compile_model(ROOT / "models" / file, load_spec(overlay))


def _mlperf(name: str) -> Program:
    return compile_model(mlperf.FOLDER / mlperf.MODELS[name], load_spec("npu"))


def _mobilenet() -> Program:
    return compile_graph(mobilenet_graph(size=64, width=0.25, classes=10), load_spec("npu"))


NETS: Mapping[str, Callable[[], Program]] = {
    **{
        f"{Path(file).name}-{overlay}": partial(_committed, file, overlay)
        for file in COMMITTED
        for overlay in ("npu", "npu-small")
    },
    "mobilenet": _mobilenet,
    "with-a-cpu-part": lambda: composite(load_spec("npu")),
    **{name: partial(_mlperf, name) for name in TINY},
}


def compare(program: Program, engine: Engine) -> None:
    """The bytes of the golden model: one sample, and several in one run, on an engine that has run others."""
    golden = FunctionalEngine(program)
    parts = {id(step): open_part(step, 1) for step in program.steps if isinstance(step, Part)}

    def run_part(part: Part, given: Arrays) -> Arrays:
        return parts[id(part)](given)

    rng = np.random.default_rng(5)
    for count in (1, 3, 2, 1):
        samples = [_sample(program, rng) for _ in range(count)]
        got, wanted = (each.execute(samples, run_part).outputs for each in (engine, golden))
        assert len(got) == len(wanted) == count
        for one, right in zip(got, wanted, strict=True):
            assert one.keys() == right.keys()
            for name in right:
                assert (one[name].dtype, one[name].shape) == (right[name].dtype, right[name].shape)
                assert one[name].tobytes() == right[name].tobytes(), f"{name} of {program.name}"


def _sample(program: Program, rng: np.random.Generator) -> Arrays:
    return {spec.name: _values(spec.concrete(), spec.dtype, rng) for spec in program.inputs}


def _values(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> NDArray[Any]:
    if dtype == "FP32":
        return rng.random(shape, np.float32)
    info = np.iinfo(dtype.lower())
    return rng.integers(info.min, info.max + 1, shape).astype(dtype.lower())


def main(folder: Path) -> None:
    """Write all nets that can be made here."""
    for name, make in NETS.items():
        if name not in TINY or mlperf.reason_to_skip() is None:
            (folder / f"{name}.npu").write_bytes(write_program(make()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
