"""The trained network as a TFLite file: INT8 inside, FP32 at both ends.

Written by hand against the format's schema (schema.fbs of TensorFlow, version 3). Quantised as the "LiteRT 8-bit
quantization specification" says: activations asymmetric, convolution weights symmetric per output channel, the other
weights symmetric, biases INT32 in steps of input times weight. The operator versions are the oldest that do this, so
that tflite-runtime 2.14 takes the file too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from network import LAYERS, Floats, Folded, Layer

Ranges = Mapping[str, tuple[float, float]]  # tensor → smallest and largest value
Array = npt.NDArray[Any]

DATATYPES = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32"}
# Operator → version: the oldest that takes INT8 (CONV_2D: per channel).
VERSIONS = {
    "RESHAPE": 1,
    "QUANTIZE": 1,
    "CONV_2D": 3,
    "ADD": 2,
    "MEAN": 2,
    "FULLY_CONNECTED": 4,
    "DEQUANTIZE": 2,
}
IMAGE = (1, 1, 64, 64)
FRAME = (1, 64, 64, 1)  # the same bytes, channels last


def write(folded: Folded, ranges: Ranges) -> bytes:
    """The file: image FP32 [-1,1,64,64] to logits FP32 [-1,10]; ``ranges`` of the picture and every layer's output."""
    model = _Model()
    image = model.tensor("image", IMAGE, "float32", free=True)
    frame = model.tensor("frame", FRAME, "float32", free=True)
    shape = model.constant("frame_shape", np.array([-1, *FRAME[1:]], np.int32))
    reshape = schema.ReshapeOptionsT()
    reshape.newShape = [-1, *FRAME[1:]]
    model.operator("RESHAPE", [image, shape], frame, reshape)

    values = {"image": _Value(model, "image", FRAME, ranges)}
    model.operator("QUANTIZE", [frame], values["image"].index, schema.QuantizeOptionsT())
    for layer in LAYERS:
        sources = [values[name] for name in layer.sources]
        values[layer.name] = _Value(model, layer.name, _shape(layer, sources[0].shape), ranges)
        _write_layer(model, layer, folded, sources, values[layer.name])

    last = values[LAYERS[-1].name]
    logits = model.tensor("logits", last.shape, "float32", free=True)
    model.operator("DEQUANTIZE", [last.index], logits, schema.DequantizeOptionsT())
    return model.finish(image, logits)


def output_scale(ranges: Ranges) -> float:
    """The step between two neighbouring values of the logits."""
    return _asymmetric(*ranges[LAYERS[-1].name])[0]


class _Model:
    """Tensors, buffers and operators as they are added; a tensor is known by its index."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers = [schema.BufferT()]  # by the format's rule the first one is empty
        self._operators: list[Any] = []
        self._codes = list(VERSIONS)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        scales: Sequence[float] = (),
        zero_point: int = 0,
        free: bool = False,
    ) -> int:
        """``free``: the first size is the batch. Several ``scales`` belong to the channels of the first axis."""
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name.encode(), list(shape), 0
        made.type = getattr(schema.TensorType, DATATYPES[dtype])
        if free:
            made.shapeSignature = [-1, *shape[1:]]
        if len(scales):
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = [float(scale) for scale in scales]
            made.quantization.zeroPoint = [zero_point] * len(scales)
            made.quantization.quantizedDimension = 0
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(self, name: str, array: Array, scales: Sequence[float] = ()) -> int:
        index = self.tensor(name, array.shape, array.dtype.name, scales)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self._buffers.append(buffer)
        self._tensors[index].buffer = len(self._buffers) - 1
        return index

    def operator(self, kind: str, inputs: Sequence[int], output: int, options: Any) -> None:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self._codes.index(kind), list(inputs), [output]
        made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        made.builtinOptions = options
        self._operators.append(made)

    def finish(self, image: int, logits: int) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.name, graph.tensors, graph.operators = b"main", self._tensors, self._operators
        graph.inputs, graph.outputs = [image], [logits]
        model.version, model.description, model.buffers = 3, b"camera-digits/train.py", self._buffers
        model.subgraphs, model.operatorCodes = [graph], [_code(kind) for kind in self._codes]
        builder = flatbuffers.Builder(1 << 17)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _code(kind: str) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = VERSIONS[kind]
    return code


class _Value:
    """A quantised activation: its tensor, shape and scale."""

    def __init__(self, model: _Model, name: str, shape: Sequence[int], ranges: Ranges) -> None:
        self.shape = tuple(shape)
        self.scale, zero_point = _asymmetric(*ranges[name])
        self.index = model.tensor(f"{name}_int8", shape, "int8", [self.scale], zero_point, free=True)


def _shape(layer: Layer, source: Sequence[int]) -> tuple[int, ...]:
    if layer.kind == "conv":
        batch, height, width, _ = source
        return (batch, height // layer.stride, width // layer.stride, layer.outputs)
    if layer.kind == "add":
        return tuple(source)
    return (source[0], source[-1] if layer.kind == "mean" else layer.outputs)


def _write_layer(
    model: _Model, layer: Layer, folded: Folded, sources: Sequence[_Value], target: _Value
) -> None:
    kind, inputs, options = {
        "conv": _convolution,
        "add": _addition,
        "mean": _mean,
        "connected": _connected,
    }[layer.kind](model, layer, folded, sources)
    if layer.relu:
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    model.operator(kind, inputs, target.index, options)


Parts = tuple[str, list[int], Any]


def _convolution(model: _Model, layer: Layer, folded: Folded, sources: Sequence[_Value]) -> Parts:
    weight, bias = folded[layer.name]
    options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = layer.stride
    options.dilationHFactor = options.dilationWFactor = 1
    per_channel = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    arrays = _weights(model, layer, weight.transpose(0, 2, 3, 1), bias, per_channel, sources[0])
    return "CONV_2D", [sources[0].index, *arrays], options


def _addition(_model: _Model, _layer: Layer, _folded: Folded, sources: Sequence[_Value]) -> Parts:
    return "ADD", [source.index for source in sources], schema.AddOptionsT()


def _mean(model: _Model, layer: Layer, _folded: Folded, sources: Sequence[_Value]) -> Parts:
    axes = model.constant(f"{layer.name}_axes", np.array([1, 2], np.int32))
    return "MEAN", [sources[0].index, axes], schema.ReducerOptionsT()


def _connected(model: _Model, layer: Layer, folded: Folded, sources: Sequence[_Value]) -> Parts:
    weight, bias = folded[layer.name]
    arrays = _weights(model, layer, weight, bias, np.abs(weight).max(keepdims=True).reshape(1), sources[0])
    return "FULLY_CONNECTED", [sources[0].index, *arrays], schema.FullyConnectedOptionsT()


def _weights(
    model: _Model, layer: Layer, weight: Floats, bias: Floats, largest: Floats, source: _Value
) -> tuple[int, int]:
    """Weights of which the first axis is the output, and the bias; ``largest``: [outputs] or [1], of the weights."""
    scales = np.maximum(largest.astype(np.float64) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    steps = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).clip(-127, 127).astype(np.int8)
    bias_scales = np.float32(source.scale) * scales
    bias_steps = np.rint(bias / bias_scales.astype(np.float64)).astype(np.int32)
    return (
        model.constant(f"{layer.name}_weight", steps, scales.tolist()),
        model.constant(f"{layer.name}_bias", bias_steps, bias_scales.tolist()),
    )


def _asymmetric(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of INT8 for a range, widened to hold 0, which must have a step of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255))
    return scale, round(-128 - low / scale)
