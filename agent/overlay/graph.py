"""A quantised model as the overlay sees it: untiled layers over INT8 planes, host operators, and what stays on the CPU.

All numbers are folded in: out = clamp(rne(float32(acc) * scale) + zero_point, low, high), acc being the
int32 sum of weight x input plus ``bias``, and the bias already holds -(input zero point) x (sum of weights). UINT8
tensors are the same bytes XOR 0x80 (values and zero points less 128).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.types import TensorSpec

Int8 = NDArray[np.int8]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that layers read or write: int8 ``[channels, height, width]`` (batch 1).

    ``dtype`` (INT8 or UINT8), ``shape`` and ``layout`` ("nchw", "nhwc"; either when height = width = 1) say how the
    source model holds it, when it crosses to the host. ``zero_point`` is that of the int8 values.
    """

    name: str
    channels: int
    height: int
    width: int
    zero_point: int
    dtype: str
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution or fully connected layer (a kernel as large as its input). ``nodes``: names in the source model.

    ``weights``: int16 ``[out, in, kh, kw]`` in -255..255 (zero point taken off), ``[channels, 1, kh, kw]`` when
    ``depthwise``. ``bias``: int32 [out], folded. ``scale``: float32 [out], input x weight / output scale.
    """

    name: str
    input: str
    output: str
    weights: NDArray[np.int16]
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]
    stride: Pair
    pads: Pads
    dilation: Pair
    depthwise: bool
    pad_value: int
    zero_point: int
    low: int
    high: int
    macs: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Maximum, or sum x scale (average). For a maximum bias is 0, scale 1, zero_point 0 and pad_value -128."""

    name: str
    input: str
    output: str
    maximum: bool
    kernel: Pair
    stride: Pair
    pads: Pads
    pad_value: int
    bias: int
    scale: float
    zero_point: int
    low: int
    high: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Add:
    """out = clamp(rne((a * ratio_a + b * ratio_b + offset) / 2**shift), low, high), in integers.

    Ratios have 24 bits, the offset 40 (signed); zero points are in the offset. Half goes to the even neighbour.
    """

    name: str
    a: str
    b: str
    output: str
    ratio_a: int
    ratio_b: int
    offset: int
    shift: int
    low: int
    high: int
    nodes: tuple[str, ...]


Layer = Conv | Pool | Add


@dataclass(frozen=True, slots=True)
class Host:
    """An operator that numpy runs beside the overlay (host.py lists them), on tensors as the model holds them."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Operators that stay on the CPU in the source's own runtime, and ``why``."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    why: str


Step = Layer | Host | Foreign


@dataclass(frozen=True, slots=True)
class Graph:
    """Steps in an order that can be executed; ``tensors``: those that layers touch, by name."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
