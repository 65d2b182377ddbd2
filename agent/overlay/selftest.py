"""A small network of every kind of layer: what an overlay has to answer before it is used."""

from __future__ import annotations

import numpy as np

from agent.overlay.graph import Add, Conv, Graph, Layer, Pair, Pool, Tensor
from agent.overlay.program import Binding, Program, Segment
from agent.types import TensorSpec

SIZE = 16  # pixels a side of the input
SEED = 20260  # any; equal everywhere, so that a packed overlay has the same bytes wherever it is packed
INPUT, OUTPUT = "x", "y"


def self_test_graph() -> Graph:
    """INT8 ``[1, 3, 16, 16]`` to ``[1, 10]``: packed first convolution, depthwise, pointwise, addition, both poolings
    and a fully connected layer, with random weights, odd zero points and one stride of 2."""
    rng = np.random.default_rng(SEED)
    planes = [
        _planes("x", 3, SIZE, -3), _planes("a", 24, 8, 5), _planes("b", 24, 8, -7), _planes("c", 24, 8, 9),
        _planes("d", 24, 8, 1), _planes("e", 24, 4, 1), _planes("f", 24, 1, -11), _planes("y", 10, 1, 2),
    ]  # fmt: skip
    tensors = {tensor.name: tensor for tensor in planes}

    def conv(name: str, output: str, kernel: int, stride: int = 1, depthwise: bool = False) -> Conv:
        source, target = tensors[name], tensors[output]
        inputs = 1 if depthwise else source.channels
        weights = rng.integers(-127, 128, (target.channels, inputs, kernel, kernel)).astype(np.int16)
        taps = inputs * kernel * kernel
        offset = source.zero_point * weights.sum((1, 2, 3), dtype=np.int64)
        bias = (rng.integers(-1000, 1000, target.channels) - offset).astype(np.int32)
        scale = (rng.uniform(0.5, 1.0, target.channels) / (73 * np.sqrt(taps))).astype(np.float32)
        pad = kernel // 2
        return Conv(
            output, name, output, weights, bias, scale, (stride, stride), (pad, pad, pad, pad), (1, 1), depthwise,
            source.zero_point, target.zero_point, -128, 127, weights.size * target.height * target.width, (output,),
        )  # fmt: skip

    layers: tuple[Layer, ...] = (
        conv("x", "a", 3, stride=2),
        conv("a", "b", 3, depthwise=True),
        conv("b", "c", 1),
        Add("d", "a", "c", "d", 9_000_001, 11_000_003, -5_000_007, 24, -120, 127, ("d",)),
        _pool("d", "e", (2, 2), True, tensors),
        _pool("e", "f", (4, 4), False, tensors),
        conv("f", "y", 1),
    )
    specs = [TensorSpec(INPUT, "INT8", (1, 3, SIZE, SIZE)), TensorSpec(OUTPUT, "INT8", (1, 10))]
    return Graph("selftest", (specs[0],), (specs[1],), tensors, layers)


def self_test_program() -> Program:
    """The network as a program of no overlay: for what runs layers (numpy, OpenCL), without the chains of one."""
    graph = self_test_graph()
    layers = tuple(step for step in graph.steps if isinstance(step, Layer))
    source, target = (Binding(graph.tensors[name], 0, 0) for name in (INPUT, OUTPUT))
    segment = Segment(layers, (source,), (target,), b"", None, 0, 0, 0, 0, ())
    return Program(graph.name, "", 0, 0, graph.inputs, graph.outputs, dict(graph.tensors), (segment,))


def _planes(name: str, channels: int, size: int, zero_point: int) -> Tensor:
    shape = (1, channels) if name == OUTPUT else (1, channels, size, size)
    return Tensor(name, channels, size, size, zero_point, "INT8", shape, "nchw")


def _pool(name: str, output: str, kernel: Pair, maximum: bool, tensors: dict[str, Tensor]) -> Pool:
    source, target = tensors[name], tensors[output]
    taps = kernel[0] * kernel[1]
    if maximum:
        return Pool(
            output, name, output, True, kernel, kernel, (0, 0, 0, 0), -128, 0, 1.0, 0, -128, 127, (output,)
        )
    scale = float(np.float32(1.25 / taps))
    return Pool(
        output, name, output, False, kernel, kernel, (0, 0, 0, 0), source.zero_point, -taps * source.zero_point,
        scale, target.zero_point, -128, 127, (output,),
    )  # fmt: skip
