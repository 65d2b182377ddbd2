"""The network: its layers once, for training, ONNX and TFLite alike.

A ResNet-8 (K. He et al., "Deep Residual Learning", CVPR 2016, in the size of MLPerf Tiny) for one 64x64 grey plane.
Batch normalisation serves the training alone and is folded into the convolutions afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

CLASSES = 10
EPSILON = 1e-5  # of the batch normalisation
MOMENTUM = 0.1

Floats = npt.NDArray[np.float32]
Tensors = dict[str, torch.Tensor]
Folded = dict[str, tuple[Floats, Floats]]  # layer → weights [out,in,kernel,kernel] or [out,in], bias [out]


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator. ``name`` is also that of its output; ``stride`` and ``kernel`` belong to convolutions.

    A convolution keeps ceil(size / stride) pixels a side; what padding that needs goes evenly around the picture and an
    odd pixel below and to the right (TFLite: SAME).
    """

    kind: str  # conv, add, mean (over the picture), connected
    name: str
    sources: tuple[str, ...]
    inputs: int = 0
    outputs: int = 0
    kernel: int = 1
    stride: int = 1
    relu: bool = False

    def pads(self) -> tuple[int, int]:
        """Pixels before and after, for pictures of an even size."""
        total = max(self.kernel - self.stride, 0)
        return total // 2, total - total // 2


def _layers() -> Iterator[Layer]:
    yield Layer("conv", "stem", ("image",), 1, 16, 3, relu=True)
    last, inputs = "stem", 16
    for stage, (outputs, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        first, second, total = f"stage{stage}.first", f"stage{stage}.second", f"stage{stage}.sum"
        yield Layer("conv", first, (last,), inputs, outputs, 3, stride, relu=True)
        yield Layer("conv", second, (first,), outputs, outputs, 3)
        shortcut = last
        if stride > 1:
            shortcut = f"stage{stage}.shortcut"
            yield Layer("conv", shortcut, (last,), inputs, outputs, 1, stride)
        yield Layer("add", total, (second, shortcut), relu=True)
        last, inputs = total, outputs
    yield Layer("mean", "mean", (last,))
    yield Layer("connected", "logits", ("mean",), inputs, CLASSES)


LAYERS = tuple(_layers())


class Network:
    """Trainable parameters and the running statistics of the batch normalisation."""

    def __init__(self) -> None:
        """He initialisation; batch normalisation begins as the identity."""
        self.parameters: Tensors = {}
        self.statistics: Tensors = {}
        for layer in LAYERS:
            if layer.kind == "conv":
                fan_in = layer.inputs * layer.kernel**2
                weight = torch.randn(layer.outputs, layer.inputs, layer.kernel, layer.kernel) * math.sqrt(
                    2 / fan_in
                )
                # Pixels apart, channels together: the order in which a CPU trains fastest.
                self.parameters[f"{layer.name}.weight"] = weight.to(memory_format=torch.channels_last)
                self.parameters[f"{layer.name}.gain"] = torch.ones(layer.outputs)
                self.parameters[f"{layer.name}.bias"] = torch.zeros(layer.outputs)
                self.statistics[f"{layer.name}.mean"] = torch.zeros(layer.outputs)
                self.statistics[f"{layer.name}.variance"] = torch.ones(layer.outputs)
            elif layer.kind == "connected":
                weight = torch.randn(layer.outputs, layer.inputs) * math.sqrt(1 / layer.inputs)
                self.parameters[f"{layer.name}.weight"] = weight
                self.parameters[f"{layer.name}.bias"] = torch.zeros(layer.outputs)
        for tensor in self.parameters.values():
            tensor.requires_grad_(True)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n,10] of images [n,1,64,64] in training, with the statistics of the batch."""
        of = self.parameters
        values = {"image": images}
        for layer in LAYERS:
            name = layer.name
            x = _plain(
                layer,
                values,
                of.get(f"{name}.weight"),
                None if layer.kind == "conv" else of.get(f"{name}.bias"),
            )
            if layer.kind == "conv":
                mean, variance = self.statistics[f"{name}.mean"], self.statistics[f"{name}.variance"]
                gain, bias = of[f"{name}.gain"], of[f"{name}.bias"]
                x = functional.batch_norm(x, mean, variance, gain, bias, True, MOMENTUM, EPSILON)
            values[name] = functional.relu(x) if layer.relu else x
        return values["logits"]

    def folded(self) -> Folded:
        """Weights and biases with the batch normalisation multiplied in."""
        folded: Folded = {}
        for layer in LAYERS:
            if layer.kind not in ("conv", "connected"):
                continue
            weight, bias = (self.parameters[f"{layer.name}.{part}"].detach() for part in ("weight", "bias"))
            if layer.kind == "conv":
                variance = self.statistics[f"{layer.name}.variance"]
                gain = self.parameters[f"{layer.name}.gain"].detach() / torch.sqrt(variance + EPSILON)
                weight = weight * gain[:, None, None, None]
                bias = bias - self.statistics[f"{layer.name}.mean"] * gain
            folded[layer.name] = (np.ascontiguousarray(weight.numpy()), bias.numpy())
        return folded


def activations(folded: Folded, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """The picture and every layer's output, by name, as the trained network computes them."""
    values = {"image": images}
    for layer in LAYERS:
        weight, bias = (
            (torch.from_numpy(array) for array in folded[layer.name])
            if layer.name in folded
            else (None, None)
        )
        x = _plain(layer, values, weight, bias)
        values[layer.name] = functional.relu(x) if layer.relu else x
    return values


def _plain(
    layer: Layer, values: Mapping[str, torch.Tensor], weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """A layer without batch normalisation and ReLU."""
    x = values[layer.sources[0]]
    if layer.kind == "add":
        return x + values[layer.sources[1]]
    if layer.kind == "mean":
        return x.mean(dim=(2, 3))
    assert weight is not None
    if layer.kind == "connected":
        return functional.linear(x, weight, bias)
    before, after = layer.pads()
    if before == after:
        return functional.conv2d(x, weight, bias, layer.stride, before)
    return functional.conv2d(functional.pad(x, (before, after) * 2), weight, bias, layer.stride)
