"""Programs of one layer, lowered by hand to one tile: what the machine and the driver are tested with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.descriptor import encode
from agent.overlay.graph import Add, Conv, Layer, Pool, Tensor
from agent.overlay.program import Binding, Program, Segment
from agent.overlay.spec import Overlay, load_spec
from agent.types import TensorSpec

NPU = load_spec("npu")
SMALL = load_spec("npu-small")
NO_PADS = {"in_h": 4095, "in_w": 4095}


def tensor(name: str, channels: int, height: int, width: int, zero_point: int = 0, **other: Any) -> Tensor:
    """INT8, nchw."""
    plain = Tensor(name, channels, height, width, zero_point, "INT8", (1, channels, height, width), "nchw")
    return replace(plain, **other)


def image(seed: int, of: Tensor) -> NDArray[np.int8]:
    """int8 ``[C, H, W]``."""
    shape = (of.channels, of.height, of.width)
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


def conv(
    seed: int, source: Tensor, outputs: int, kernel: tuple[int, int], *, stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0), dilation: tuple[int, int] = (1, 1), depthwise: bool = False,
) -> tuple[Conv, Tensor]:  # fmt: skip
    """A convolution with random numbers, and its output."""
    rng = np.random.default_rng(seed)
    inputs = 1 if depthwise else source.channels
    weights = rng.integers(-128, 128, (outputs, inputs, *kernel), np.int16)
    size = inputs * kernel[0] * kernel[1]
    bias = rng.integers(-5000, 5000, outputs, np.int32)
    scale = (rng.uniform(0.5, 2.0, outputs) * 0.01 / size**0.5).astype(np.float32)
    rows, columns = (
        (length + pads[i] + pads[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, length in enumerate((source.height, source.width))
    )
    layer = Conv(
        "layer", source.name, "y", weights, bias, scale, stride, pads, dilation, depthwise,
        source.zero_point, 3, -100, 120, weights.size * rows * columns, ("node",),
    )  # fmt: skip
    return layer, tensor("y", outputs, rows, columns, 3)


def blocks(spec: Overlay, channels: int) -> int:
    """Lane blocks of a tensor."""
    return -(-channels // spec.lanes)


def words(spec: Overlay, of: Tensor) -> int:
    """Words that a tensor takes."""
    return blocks(spec, of.channels) * of.height * of.width


def parameters(spec: Overlay, bias: NDArray[np.int32], scale: NDArray[np.float32]) -> list[bytes]:
    """Parameter rows, one item a lane block."""
    size = blocks(spec, len(bias)) * spec.lanes
    biases, scales = np.zeros(size, "<i4"), np.ones(size, "<f4")
    biases[: len(bias)], scales[: len(scale)] = bias, scale
    cut = range(0, size, spec.lanes)
    return [biases[i : i + spec.lanes].tobytes() + scales[i : i + spec.lanes].tobytes() for i in cut]


def conv_stream(spec: Overlay, layer: Conv) -> bytes:
    """The rows of the weight memory for CONV."""
    outputs, inputs, height, width = layer.weights.shape
    a, d = blocks(spec, outputs), blocks(spec, inputs)
    lanes = spec.lanes
    padded = np.zeros((a * lanes, d * lanes, height, width), np.int8)
    padded[:outputs, :inputs] = layer.weights
    each = padded.reshape(a, lanes, d, lanes, height, width).transpose(0, 4, 5, 2, 1, 3)
    return b"".join(
        head + block.tobytes()
        for head, block in zip(parameters(spec, layer.bias, layer.scale), each, strict=True)
    )


def depthwise_stream(spec: Overlay, layer: Conv) -> bytes:
    """The rows of the weight memory for DEPTHWISE, 3 x 3."""
    channels = len(layer.weights)
    a = blocks(spec, channels)
    taps = np.zeros((10, a * spec.lanes), np.int8)
    taps[:9, :channels] = layer.weights.reshape(channels, 9).T
    each = taps.reshape(10, a, spec.lanes).transpose(1, 0, 2)
    return b"".join(
        head + block.tobytes()
        for head, block in zip(parameters(spec, layer.bias, layer.scale), each, strict=True)
    )


def conv_fields(spec: Overlay, layer: Conv, source: Tensor, target: Tensor) -> dict[str, int]:
    """A CONV descriptor: input at word 0, output behind it."""
    (sy, sx), (dy, dx), (top, left) = layer.stride, layer.dilation, layer.pads[:2]
    _, inputs, height, width = layer.weights.shape
    return _ends(spec, layer, source, target) | {
        "opcode": spec.opcodes["CONV"], "in_base": -top * source.width - left,
        "count_a": blocks(spec, target.channels), "count_b": height, "step_b": dy * source.width,
        "count_c": width, "step_c": dx, "count_d": blocks(spec, inputs), "step_d": source.height * source.width,
        "count_e": target.height, "step_e": sy * source.width, "count_f": target.width, "step_f": sx,
        "y0": -top, "x0": -left, "y_b": dy, "y_e": sy, "x_c": dx, "x_f": sx, "pad_value": layer.pad_value,
        "in_h": source.height, "in_w": source.width,
    }  # fmt: skip


def depthwise_fields(spec: Overlay, layer: Conv, source: Tensor, target: Tensor) -> dict[str, int]:
    """A DEPTHWISE descriptor, 3 x 3."""
    (sy, sx), (top, left) = layer.stride, layer.pads[:2]
    return _ends(spec, layer, source, target) | {
        "opcode": spec.opcodes["DEPTHWISE"], "in_base": -top * source.width - left,
        "count_a": blocks(spec, target.channels), "step_a": source.height * source.width,
        "count_e": (target.height - 1) * sy + 3, "step_e": source.width,
        "count_f": (target.width - 1) * sx + 3, "step_f": 1, "y0": -top, "x0": -left, "y_e": 1, "x_f": 1,
        "pad_value": layer.pad_value, "in_h": source.height, "in_w": source.width, "stride_y": sy, "stride_x": sx,
    }  # fmt: skip


def pool_fields(spec: Overlay, layer: Pool, source: Tensor, target: Tensor) -> dict[str, int]:
    """A POOL descriptor."""
    (sy, sx), (top, left) = layer.stride, layer.pads[:2]
    return _ends(spec, layer, source, target) | {
        "opcode": spec.opcodes["POOL"], "flags": spec.flags["MAX"] if layer.maximum else 0,
        "in_base": -top * source.width - left, "count_a": blocks(spec, source.channels),
        "step_a": source.height * source.width, "count_b": target.height, "step_b": sy * source.width,
        "count_c": target.width, "step_c": sx, "count_e": layer.kernel[0], "step_e": source.width,
        "count_f": layer.kernel[1], "step_f": 1, "y0": -top, "x0": -left, "y_b": sy, "y_e": 1, "x_c": sx, "x_f": 1,
        "pad_value": layer.pad_value, "in_h": source.height, "in_w": source.width,
    }  # fmt: skip


def add_fields(spec: Overlay, layer: Add, source: Tensor) -> dict[str, int]:
    """An ADD descriptor over the whole tensors, b behind a."""
    size = words(spec, source)
    offset = layer.offset & ((1 << 40) - 1)
    return {
        "opcode": spec.opcodes["ADD"], "count_e": size, "step_e": 1, "count_f": 2, "step_f": size, **NO_PADS,
        "out_base": 2 * size, "act_min": layer.low, "act_max": layer.high, "ratio_a": layer.ratio_a,
        "ratio_b": layer.ratio_b, "shift": layer.shift, "offset_high": offset >> 32,
        "offset_low": offset & 0xFFFFFFFF,
    }  # fmt: skip


def _ends(spec: Overlay, layer: Conv | Pool, source: Tensor, target: Tensor) -> dict[str, int]:
    return {
        "out_base": words(spec, source), "out_step": target.height * target.width,
        "zero_point": layer.zero_point, "act_min": layer.low, "act_max": layer.high,
    }  # fmt: skip


def transfer(spec: Overlay, name: str, region: int, chip: int, count: int, **other: int) -> dict[str, int]:
    """A LOAD or STORE of one run at the start of a region."""
    return {
        "opcode": spec.opcodes[name], "region": region, "chip": chip, "runs": 1, "words": count, **other
    }  # fmt: skip


def segment(
    spec: Overlay, layers: Sequence[Layer], inputs: Sequence[Tensor], output: Tensor, fields: dict[str, int],
    stream: bytes,
) -> Segment:  # fmt: skip
    """LOAD the inputs, compute, STORE: inputs from word 0 on, one behind the other, the output behind them."""
    after, then = 1 << spec.semaphores["LOAD_COMPUTE"], 1 << spec.semaphores["COMPUTE_STORE"]
    loaded, stored = sum(words(spec, each) for each in inputs), words(spec, output)
    chain = [
        transfer(spec, "LOAD", 1, 0, loaded, signal=after),
        fields | {"wait": after, "signal": then},
        transfer(spec, "STORE", 2, loaded, stored, wait=then),
        {"opcode": spec.opcodes["END"]},
    ]
    stream_at = 64 * (len(chain) + 2)
    resident = [
        transfer(
            spec, "LOAD", 0, 0, len(stream) // spec.lanes, offset=stream_at, flags=spec.flags["WEIGHTS"]
        ),
        {"opcode": spec.opcodes["END"]},
    ]
    data = b"".join(encode(spec, each) for each in [*chain, *resident]) + stream
    bindings, offset = [], 0
    for each in inputs:
        bindings.append(Binding(each, offset, words(spec, each) * spec.lanes))
        offset += bindings[-1].nbytes
    nbytes = stored * spec.lanes
    return Segment(
        tuple(layers), tuple(bindings), (Binding(output, 0, nbytes),), data, 64 * len(chain) if stream else None,
        0, offset, nbytes, 0, (1,),
    )  # fmt: skip


def program(spec: Overlay, *segments: Segment, name: str = "handmade") -> Program:
    """A program of these segments; its inputs are those of the first, its outputs those of the last."""
    tensors = {b.tensor.name: b.tensor for each in segments for b in (*each.inputs, *each.outputs)}

    def specs(bindings: Sequence[Binding]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(b.tensor.name, b.tensor.dtype, b.tensor.shape) for b in bindings)

    return Program(
        name, spec.id, spec.version, spec.lanes, specs(segments[0].inputs), specs(segments[-1].outputs),
        tensors, segments,
    )  # fmt: skip


def conv_segment(spec: Overlay, layer: Conv, source: Tensor, target: Tensor) -> Segment:
    """A whole convolution."""
    if layer.depthwise:
        fields, stream = depthwise_fields(spec, layer, source, target), depthwise_stream(spec, layer)
    else:
        fields, stream = conv_fields(spec, layer, source, target), conv_stream(spec, layer)
    return segment(spec, [layer], [source], target, fields, stream)


def pool_segment(spec: Overlay, layer: Pool, source: Tensor, target: Tensor) -> Segment:
    """A whole pooling layer."""
    bias, scale = np.full(spec.lanes, layer.bias, np.int32), np.full(spec.lanes, layer.scale, np.float32)
    stream = parameters(spec, bias, scale)[0]
    return segment(spec, [layer], [source], target, pool_fields(spec, layer, source, target), stream)
