"""How far the overlay's bytes are from those of the runtimes that the models come from.

``onnx_mismatches_*``: outputs over a whole test set that differ from ONNX Runtime's, for digits and camera-digits.
For TFLite, against LiteRT as nodes run it (``litert``: XNNPACK kernels) and against its reference kernels
(``reference``: gemmlowp rounding): ``top1_*``, the share of inputs with the same largest output, and the histogram of
differences, as shares of all outputs: ``lsb0_*`` equal, ``lsb1_*`` one step apart, ``lsb2_*`` two to four,
``lsb5_*`` more.

Inputs: camera-digits, its test set; kws, the recorded utterance and copies of it with noise; ad, the recorded machine;
ic and vww, for which no pictures are at hand, random bytes: nothing that the nets were trained for, hence the hardest.
Softmax outputs are compared where there are some. Without the MLPerf Tiny models (OVERLAID_MLPERF_TINY) their figures
are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.functional import GraphRunner
from agent.overlay.graph import Graph
from agent.overlay.importers.import_onnx import import_onnx
from agent.overlay.importers.import_tflite import import_tflite
from tests.bench.harness import Figure, main
from tests.system import mlperf

Array = NDArray[Any]
MODELS = Path(__file__).resolve().parents[2] / "models"
RANDOM_INPUTS = 40
NOISE = 8  # steps
BINS = {"lsb0": (0, 0), "lsb1": (1, 1), "lsb2": (2, 4), "lsb5": (5, 1 << 30)}
NETS = {"ic": "resnet8-int8", "kws": "dscnn-int8", "vww": "vww-int8", "ad": "autoencoder-int8"}


def measure() -> Mapping[str, Figure]:
    figures = {
        f"onnx_mismatches_{name.replace('-', '_')}": Figure(_mismatches(name), "", at_most=0)
        for name in ("digits", "camera-digits")
    }
    camera = MODELS / "camera-digits" / "camera-digits-int8.tflite"
    figures |= _against_litert("camera", camera, list(_pictures("camera-digits")))
    why = mlperf.reason_to_skip()
    if why:
        print(f"the MLPerf Tiny nets are left out: {why}", file=sys.stderr)
        return figures
    for name, model in NETS.items():
        path = mlperf.FOLDER / mlperf.MODELS[model]
        figures |= _against_litert(name, path, list(_inputs(name, path)))
    return figures


def _mismatches(name: str) -> int:
    """Outputs of an ONNX model that differ from ONNX Runtime's, over its test set."""
    import onnxruntime

    file = MODELS / name / f"{name}-int8.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    golden = GraphRunner(import_onnx(file.read_bytes(), name))
    found = 0
    for image in _pictures(name):
        given = {"image": image}
        found += int((golden.run(given)["logits"] != session.run(["logits"], given)[0]).sum())
    return found


def _pictures(name: str) -> Iterator[Array]:
    """The test set, FP32 in 0..1, one by one."""
    with np.load(MODELS / name / "test.npz") as data:
        images = data["images"]
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    for image in images:
        yield image[None].astype(np.float32) / scale


def _inputs(name: str, path: Path) -> Iterator[Array]:
    rng = np.random.default_rng(1)
    detail = _interpreter(path, "litert").get_input_details()[0]
    if name == "kws":
        recorded = np.load(mlperf.FOLDER / "kws_inputs.npy").reshape(detail["shape"])
        yield recorded
        for _ in range(RANDOM_INPUTS):
            noisy = recorded + rng.integers(-NOISE, NOISE + 1, recorded.shape)
            yield np.clip(noisy, -128, 127).astype(np.int8)
    elif name == "ad":
        scale, zero_point = detail["quantization"]
        for window in _windows():
            yield np.clip(np.rint(window / scale) + zero_point, -128, 127).astype(np.int8)
    else:
        for _ in range(RANDOM_INPUTS):
            yield rng.integers(-128, 128, detail["shape"]).astype(np.int8)


def _windows() -> Iterator[Array]:
    """Five frames of the machine's sound each."""
    file = mlperf.FOLDER / "ad01_normal_id_01_00000000_hist_librosa.bin"
    frames = np.fromfile(file, "<f4").reshape(-1, 128)
    for start in range(0, len(frames) - 4, 5):
        yield frames[start : start + 5].reshape(1, 640)


def _interpreter(path: Path, kernels: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {"litert": OpResolverType.AUTO, "reference": OpResolverType.BUILTIN_REF}[kernels]
    made = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=resolver)
    made.allocate_tensors()
    return made


def _against_litert(name: str, path: Path, inputs: list[Array]) -> dict[str, Figure]:
    graph = import_tflite(path.read_bytes(), name)
    golden = GraphRunner(graph)
    mine = [next(iter(golden.run({graph.inputs[0].name: each}).values())) for each in inputs]
    figures: dict[str, Figure] = {}
    for kernels in ("litert", "reference"):
        made = _interpreter(path, kernels)
        into, out = made.get_input_details()[0], made.get_output_details()[0]
        step = 1.0 if out["dtype"] == np.int8 else _output_step(graph)
        apart, same = [], 0
        for given, got in zip(inputs, mine, strict=True):
            made.set_tensor(into["index"], given)
            made.invoke()
            wanted = made.get_tensor(out["index"])
            apart.append(np.abs(np.rint((got.astype(np.float64) - wanted) / step)))
            same += int(got.argmax() == wanted.argmax())
        if name != "ad":  # a reconstruction, of which no output is the answer
            figures[f"top1_{name}_{kernels}"] = Figure(same / len(inputs), "share")
        figures |= {
            f"{label}_{name}_{kernels}": Figure(
                float(((np.array(apart) >= low) & (np.array(apart) <= high)).mean()), "share"
            )
            for label, (low, high) in BINS.items()
        }
    return figures


def _output_step(graph: Graph) -> float:
    """The scale of the last DequantizeLinear."""
    return float(graph.steps[-1].attributes["scale"][0])  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
