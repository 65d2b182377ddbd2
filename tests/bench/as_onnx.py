"""A segment's layers as an ONNX model with ONNX Runtime's integer operators, so that it runs the same arithmetic.

Activations are UINT8 (the same bytes XOR 0x80), with which ONNX Runtime is several times faster on x86 than with INT8.
Scales are 1 but for the weights', which are the layers' own; a sum in integers is QLinearAdd's in float, which can
differ in the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.overlay.graph import Add, Conv, Layer, Pool, Tensor
from agent.overlay.program import Program, Segment

MICROSOFT = "com.microsoft"
OPSET = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]


def as_onnx(program: Program, segment: Segment) -> bytes:
    """UINT8 planes ``[batch, C, H, W]`` under the segment's names of inputs and outputs."""
    maker = _Maker(program.tensors)
    for layer in segment.layers:
        maker.add(layer)
    inputs, outputs = (
        [_info(binding.tensor) for binding in bindings] for bindings in (segment.inputs, segment.outputs)
    )
    graph = helper.make_graph(maker.nodes, program.name, inputs, outputs, maker.constants)
    return bytes(helper.make_model(graph, opset_imports=OPSET, ir_version=8).SerializeToString())


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    shape = ["batch", tensor.channels, tensor.height, tensor.width]
    return helper.make_tensor_value_info(tensor.name, TensorProto.UINT8, shape)


class _Maker:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, layer: Layer) -> None:
        if isinstance(layer, Conv):
            self._conv(layer)
        elif isinstance(layer, Pool):
            self._pool(layer)
        else:
            self._sum(layer)

    def _conv(self, layer: Conv) -> None:
        """The bias of a layer holds the zero point's share, QLinearConv adds its own."""
        if np.abs(layer.weights).max() > 128 or (layer.low, layer.high) != (-128, 127):
            raise ValueError(f"{layer.name}: weights or bounds that QLinearConv does not have")
        share = layer.pad_value * layer.weights.astype(np.int64).sum((1, 2, 3))
        weights = [
            self._constant(layer.weights.astype(np.int8)),
            self._constant(layer.scale),
            self._constant(np.zeros(len(layer.scale), np.int8)),
        ]
        inputs = [
            *self._quantised(layer.input), *weights, *self._steps(layer.output),
            self._constant((layer.bias + share).astype(np.int32)),
        ]  # fmt: skip
        self._node(
            "QLinearConv", inputs, layer.output, kernel_shape=layer.weights.shape[2:], strides=layer.stride,
            pads=layer.pads, dilations=layer.dilation, group=len(layer.weights) if layer.depthwise else 1,
        )  # fmt: skip

    def _pool(self, layer: Pool) -> None:
        if layer.maximum:
            self._node(
                "MaxPool",
                [layer.input],
                layer.output,
                kernel_shape=layer.kernel,
                strides=layer.stride,
                pads=layer.pads,
            )
            return
        scale = 1 / (layer.scale * layer.kernel[0] * layer.kernel[1])
        inputs = [*self._quantised(layer.input), *self._steps(layer.output, scale)]
        self._node(
            "QLinearAveragePool", inputs, layer.output, MICROSOFT, kernel_shape=layer.kernel, strides=layer.stride,
            pads=layer.pads,
        )  # fmt: skip

    def _sum(self, layer: Add) -> None:
        given = [
            [name, self._constant(np.float32(ratio / 2**layer.shift)), self._zero(name)]
            for name, ratio in ((layer.a, layer.ratio_a), (layer.b, layer.ratio_b))
        ]
        self._node("QLinearAdd", [*given[0], *given[1], *self._steps(layer.output)], layer.output, MICROSOFT)

    def _quantised(self, name: str) -> list[str]:
        return [name, *self._steps(name)]

    def _steps(self, name: str, scale: float = 1.0) -> list[str]:
        """Scale and zero point of a tensor."""
        return [self._constant(np.float32(scale)), self._zero(name)]

    def _zero(self, name: str) -> str:
        return self._constant(np.uint8(self._tensors[name].zero_point + 128))

    def _constant(self, value: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
