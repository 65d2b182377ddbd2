"""The trained network as ONNX: FP32, and INT8 by onnxruntime's static quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from network import CLASSES, LAYERS, Floats, Folded, Layer
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

CALIBRATION_BATCH = 64


def build(folded: Folded) -> onnx.ModelProto:
    """Opset 17: image [N,1,64,64] to logits [N,10], FP32."""
    arrays = {
        f"{name}.{part}": array
        for name, pair in folded.items()
        for part, array in zip(("weight", "bias"), pair, strict=True)
    }
    graph = helper.make_graph(
        [node for layer in LAYERS for node in _nodes(layer)],
        "camera-digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=8, producer_name="camera-digits/train.py"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _nodes(layer: Layer) -> Iterator[onnx.NodeProto]:
    target = f"{layer.name}.linear" if layer.relu else layer.name
    arrays = [layer.sources[0], f"{layer.name}.weight", f"{layer.name}.bias"]
    if layer.kind == "conv":
        before, after = layer.pads()
        yield helper.make_node(
            "Conv",
            arrays,
            [target],
            name=layer.name,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[before, before, after, after],
        )
    elif layer.kind == "add":
        yield helper.make_node("Add", list(layer.sources), [target], name=layer.name)
    elif layer.kind == "mean":
        yield helper.make_node(
            "GlobalAveragePool", list(layer.sources), [f"{target}.picture"], name=layer.name
        )
        yield helper.make_node(
            "Flatten", [f"{target}.picture"], [target], name=f"{layer.name}.flatten", axis=1
        )
    else:
        yield helper.make_node("Gemm", arrays, [target], name=layer.name, transB=1)
    if layer.relu:
        yield helper.make_node("Relu", [target], [layer.name], name=f"{layer.name}.relu")


class Calibration(CalibrationDataReader):  # type: ignore[misc, unused-ignore]  # untyped where stubs are skipped
    """Feeds the crops to the quantiser in batches."""

    def __init__(self, images: Floats) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches = iter([{"image": images[start : start + CALIBRATION_BATCH]} for start in starts])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def quantise(source: Path, target: Path, images: Floats) -> None:
    """INT8 by min-max calibration: U8 activations, S8 weights per output channel, QDQ nodes."""
    quantize_static(
        source,
        target,
        Calibration(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Weights in -64..64: x86 without VNNI adds pairs of U8S8 products in 16 bits; 2*255*64 still fits.
        reduce_range=True,
    )


def output_scale(file: Path) -> float:
    """The step between two neighbouring values of the quantised logits."""
    graph = onnx.load(file).graph
    last = next(node for node in graph.node if "logits" in node.output)
    scale = next(array for array in graph.initializer if array.name == last.input[1])
    return float(numpy_helper.to_array(scale))
