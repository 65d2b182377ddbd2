"""The four architectures of MLPerf Tiny as float ONNX models, with random weights.

Random weights tell nothing about their task: these models are for measuring time, energy and what a device runs. What
they are made of is in MLPerf Tiny's reference code (mlcommons/tiny, benchmark/training); BatchNormalization is folded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 2021


class Network:
    """A model that is put together layer by layer; ``last`` is the tensor that the next one reads, of ``channels``."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self._name, self._shape = name, shape
        self._rng = np.random.default_rng([SEED, *name.encode()])
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: list[onnx.TensorProto] = []
        self.last, self.channels = "input", shape[0]

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self.last = name
        return name

    def _weights(self, *shape: int, inputs: int) -> list[str]:
        """Weights (He initialisation) and small biases."""
        at = len(self._nodes)
        weights = self._rng.standard_normal(shape) * np.sqrt(2 / inputs)
        biases = self._rng.standard_normal(shape[0]) * 0.05
        for part, array in (("weights", weights), ("biases", biases)):
            self._arrays.append(numpy_helper.from_array(array.astype(np.float32), f"{part}_{at}"))
        return [f"weights_{at}", f"biases_{at}"]

    def convolution(
        self, outputs: int, kernel: tuple[int, int], stride: int = 1, *, pads: list[int], depthwise: bool = False,
        relu: bool = True, source: str = "",
    ) -> str:  # fmt: skip
        """``source``: another tensor than the last, with the same channels as ``channels``."""
        each = 1 if depthwise else self.channels
        constants = self._weights(outputs, each, *kernel, inputs=each * kernel[0] * kernel[1])
        self._add(
            "Conv", [source or self.last, *constants], kernel_shape=list(kernel), strides=[stride, stride], pads=pads,
            group=self.channels if depthwise else 1,
        )  # fmt: skip
        self.channels = outputs
        return self._add("Relu", [self.last]) if relu else self.last

    def add(self, a: str, b: str) -> None:
        self._add("Add", [a, b])
        self._add("Relu", [self.last])

    def mean(self) -> None:
        self._add("GlobalAveragePool", [self.last])
        self._add("Flatten", [self.last])

    def connected(self, outputs: int, *, relu: bool) -> None:
        constants = self._weights(outputs, self.channels, inputs=self.channels)
        self._add("Gemm", [self.last, *constants], transB=1)
        self.channels = outputs
        if relu:
            self._add("Relu", [self.last])

    def softmax(self) -> None:
        self._add("Softmax", [self.last], axis=-1)

    def model(self) -> onnx.ModelProto:
        self._nodes[-1].output[0] = "output"
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *self._shape])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", self.channels])],
            self._arrays,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        return made


def image_classification() -> onnx.ModelProto:
    """ResNet-8: [N,3,32,32] to 10 classes."""
    net = Network("ic", (3, 32, 32))
    around = [1, 1, 1, 1]
    net.convolution(16, (3, 3), pads=around)
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        start, channels = net.last, net.channels
        # TensorFlow's "same" puts the odd pixel of a stride of two at the end.
        net.convolution(outputs, (3, 3), stride, pads=around if stride == 1 else [0, 0, 1, 1])
        main = net.convolution(outputs, (3, 3), pads=around, relu=False)
        if stride > 1:
            net.channels = channels
            start = net.convolution(outputs, (1, 1), stride, pads=[0] * 4, relu=False, source=start)
        net.add(main, start)
    net.mean()
    net.connected(10, relu=False)
    net.softmax()
    return net.model()


def keyword_spotting() -> onnx.ModelProto:
    """DS-CNN: [N,1,49,10], ten MFCCs of 49 frames, to 12 words."""
    net = Network("kws", (1, 49, 10))
    net.convolution(64, (10, 4), 2, pads=[4, 1, 5, 1])
    for _ in range(4):
        net.convolution(64, (3, 3), pads=[1] * 4, depthwise=True)
        net.convolution(64, (1, 1), pads=[0] * 4)
    net.mean()
    net.connected(12, relu=False)
    net.softmax()
    return net.model()


def visual_wake_words() -> onnx.ModelProto:
    """MobileNetV1 0.25: [N,3,96,96] to person or none."""
    net = Network("vww", (3, 96, 96))
    net.convolution(8, (3, 3), 2, pads=[0, 0, 1, 1])
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for outputs, stride in blocks:
        net.convolution(
            net.channels, (3, 3), stride, pads=[1] * 4 if stride == 1 else [0, 0, 1, 1], depthwise=True
        )
        net.convolution(outputs, (1, 1), pads=[0] * 4)
    net.mean()
    net.connected(2, relu=False)
    net.softmax()
    return net.model()


def anomaly_detection() -> onnx.ModelProto:
    """A fully connected autoencoder: [N,640], five frames of 128 mel bins."""
    net = Network("ad", (640,))
    for outputs in (*[128] * 4, 8, *[128] * 4):
        net.connected(outputs, relu=True)
    net.connected(640, relu=False)
    return net.model()


ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    "ic": image_classification,
    "kws": keyword_spotting,
    "vww": visual_wake_words,
    "ad": anomaly_detection,
}
