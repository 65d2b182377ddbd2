"""Whole ONNX models: the golden model gives ONNX Runtime's bytes; and what cannot be imported says why."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from agent.errors import ModelLoadError, UnsupportedModel
from agent.overlay.functional import run_graph
from agent.overlay.graph import Conv
from agent.overlay.importers.import_onnx import import_onnx
from tests.unit.overlay.onnx_nets import LARGEST, Array, Net, agree, kinds, runtime

MODELS = Path(__file__).resolve().parents[3] / "models"
UNSIGNED, SIGNED = QuantType.QUInt8, QuantType.QInt8


@pytest.mark.parametrize(("name", "images"), [("digits", 40), ("camera-digits", 10)])
def test_models_of_this_project(name: str, images: int) -> None:
    file = MODELS / name / f"{name}-int8.onnx"
    graph = import_onnx(file.read_bytes(), name)
    assert {*kinds(graph)} == {"quantize", "Conv", "Add", "Pool", "dequantize"}
    assert [spec.shape for spec in graph.outputs] == [(-1, 10)]
    with np.load(MODELS / name / "test.npz") as data:
        pictures = data["images"][:images].astype(np.float32)
    for picture in pictures / (255 if name == "camera-digits" else 1):
        given = {"image": picture[None]}
        np.testing.assert_array_equal(
            run_graph(graph, given)["logits"], runtime(file.read_bytes(), given)["logits"]
        )


def residual_net(tail: str) -> onnx.ModelProto:
    """FP32: every layer that the overlay has; ``tail``: Gemm, or MatMul and Add."""
    net = Net(3)

    def numbers(*shape: int) -> str:
        size = (2 / math.prod(shape[1:])) ** 0.5
        return net.constant((net.rng.standard_normal(shape) * size).astype(np.float32))

    def convolution(x: str, shape: tuple[int, ...], **attributes: Any) -> str:
        return net.node("Conv", [x, numbers(*shape), numbers(shape[0])], kernel_shape=shape[2:], **attributes)

    image = net.input(["N", 3, 12, 12], np.float32)
    x = net.node("Relu", [convolution(image, (8, 3, 3, 3), pads=[1, 1, 1, 1])])
    y = convolution(x, (8, 1, 3, 3), pads=[1, 1, 1, 1], group=8)
    y = net.node("Clip", [y, net.constant(np.float32(0)), net.constant(np.float32(6))])
    y = net.node("Relu", [net.node("Add", [convolution(y, (8, 8, 1, 1)), x])])
    y = net.node("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2])
    y = convolution(y, (16, 8, 3, 3), strides=[2, 2], pads=[0, 0, 1, 1])
    y = net.node("Flatten", [net.node("GlobalAveragePool", [y])])
    if tail == "Gemm":
        y = net.node("Gemm", [y, numbers(10, 16), numbers(10)], transB=1)
    else:
        y = net.node("Add", [net.node("MatMul", [y, numbers(16, 10)]), numbers(10)])
    model = net.model(y)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 10]))
    return model


class Pictures(CalibrationDataReader):  # type: ignore[misc, unused-ignore]  # untyped where stubs are skipped
    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(1)
        self._left = [{name: rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(8)]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize(
    ("activations", "weights", "symmetric"),
    [
        (UNSIGNED, SIGNED, False),
        (SIGNED, SIGNED, False),
        (SIGNED, SIGNED, True),
        (UNSIGNED, UNSIGNED, False),
    ],
)
def test_what_onnxruntime_quantises(
    form: QuantFormat, activations: QuantType, weights: QuantType, symmetric: bool, tmp_path: Path
) -> None:
    model = residual_net("Gemm")
    onnx.save(model, tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        Pictures(model.graph.input[0].name),
        quant_format=form,
        activation_type=activations,
        weight_type=weights,
        per_channel=not symmetric and weights == SIGNED,
        reduce_range=LARGEST < 127,
        extra_options={"ActivationSymmetric": symmetric},
    )
    graph = agree(onnx.load(tmp_path / "int8.onnx"), np.random.default_rng(2), runs=5)
    assert sum(isinstance(step, Conv) for step in graph.steps) == 5
    if not (symmetric and form == QuantFormat.QOperator):  # this one leaves Relu and MaxPool in FP32
        assert "Foreign" not in kinds(graph)


def test_a_float_model_says_what_to_do() -> None:
    with pytest.raises(UnsupportedModel, match=r"Conv \(node 'conv4'\) computes in FP32.*quantize_static"):
        import_onnx(residual_net("Gemm").SerializeToString(), "float")


def test_a_batch_of_several_is_refused() -> None:
    net = Net(1)
    y = net.node("MaxPool", [net.input([4, 3, 8, 8])], kernel_shape=[2, 2])
    with pytest.raises(
        UnsupportedModel, match="'in1' has a batch of 4; the overlay takes one sample at a time"
    ):
        import_onnx(net.model(y).SerializeToString(), "batch")


def test_open_sizes_other_than_the_batch_are_refused() -> None:
    net = Net(1)
    y = net.node("MaxPool", [net.input(["N", 3, "H", 8])], kernel_shape=[2, 2])
    with pytest.raises(ModelLoadError, match="not known before a run; export the model with fixed sizes"):
        import_onnx(net.model(y).SerializeToString(), "open")


@pytest.mark.parametrize("data", [b"", b"TFL3 or so", bytes(range(256)) * 10])
def test_what_is_no_onnx_file(data: bytes) -> None:
    with pytest.raises(ModelLoadError, match="export the model again"):
        import_onnx(data, "junk")


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.999])
def test_a_file_that_ends_too_early(cut: float) -> None:
    data = (MODELS / "digits" / "digits-int8.onnx").read_bytes()
    with pytest.raises(ModelLoadError):
        import_onnx(data[: int(len(data) * cut)], "short")
