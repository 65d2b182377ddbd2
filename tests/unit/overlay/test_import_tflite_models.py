"""Whole TFLite models: the golden model against LiteRT; and what cannot be imported says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelLoadError
from agent.overlay.functional import run_graph
from agent.overlay.graph import Conv
from agent.overlay.importers.import_tflite import import_tflite
from tests.system import mlperf
from tests.unit.overlay.onnx_nets import kinds
from tests.unit.overlay.tflite_nets import interpreter, random_inputs, runtime

MODELS = Path(__file__).resolve().parents[3] / "models"
CAMERA = MODELS / "camera-digits" / "camera-digits-int8.tflite"
# Multiply-accumulates of an inference, as published with the benchmark (ic, kws, vww) or counted by hand (ad).
MACS = {"resnet8-int8": 12.5e6, "dscnn-int8": 2.66e6, "vww-int8": 7.49e6, "autoencoder-int8": 264_192}


@pytest.mark.skipif(mlperf.reason_to_skip() is not None, reason=str(mlperf.reason_to_skip()))
@pytest.mark.parametrize("name", MACS)
def test_mlperf_tiny(name: str) -> None:
    """Everything but softmax is a layer; LiteRT and the golden model agree, but for a step here and there."""
    data = (mlperf.FOLDER / mlperf.MODELS[name]).read_bytes()
    graph, made, rng = import_tflite(data, name), interpreter(data), np.random.default_rng(3)
    assert set(kinds(graph)) <= {"Conv", "Add", "Pool", "softmax_int8"}
    assert sum(step.macs for step in graph.steps if isinstance(step, Conv)) == pytest.approx(
        MACS[name], rel=0.01
    )
    apart = []
    for _ in range(4):
        inputs = random_inputs(made, rng)
        (wanted,), (got,) = runtime(made, inputs).values(), run_graph(graph, inputs).values()
        assert wanted.argmax() == got.argmax()
        apart.append(np.abs(wanted.astype(int) - got))
    assert np.mean(apart) < 0.1


def test_the_camera_model_reads_what_litert_reads() -> None:
    data = CAMERA.read_bytes()
    graph, made = import_tflite(data, "camera"), interpreter(data)
    assert [spec.shape for spec in (*graph.inputs, *graph.outputs)] == [(-1, 1, 64, 64), (-1, 10)]
    with np.load(MODELS / "camera-digits" / "test.npz") as file:
        pictures = file["images"][:10].astype(np.float32) / 255
    for picture in pictures:
        given = {"image": picture[None]}
        (wanted,), (got,) = runtime(made, given).values(), run_graph(graph, given).values()
        assert wanted.argmax() == got.argmax()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=0.13)  # two steps of the logits


@pytest.mark.parametrize("data", [b"", b"\x1c\0\0\0TFL3", b"\x1c\0\0\0TFL3" + b"\xff" * 300, b"ONNX or so"])
def test_what_is_no_tflite_file(data: bytes) -> None:
    with pytest.raises(ModelLoadError, match="export the model again"):
        import_tflite(data, "junk")


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_ends_too_early(cut: float) -> None:
    data = CAMERA.read_bytes()
    with pytest.raises(ModelLoadError):
        import_tflite(data[: int(len(data) * cut)], "short")
