"""Constants of a convolution, as the kernels read them; what is missing in a block is filled with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.graph import Conv

LANES = 4  # channels of a block


def blocks(channels: int, lanes: int = LANES) -> int:
    """Blocks of channels, the last of them perhaps not full."""
    return -(-channels // lanes)


def is_wide(layer: Conv) -> bool:
    """Whether its weights leave int8."""
    return bool(layer.weights.size) and not -128 <= layer.weights.min() <= layer.weights.max() <= 127


def matrix_weights(layer: Conv, outputs: int, inputs_first: bool) -> bytes:
    """``[ceil(out/outputs)][kh][kw][ceil(in/4)]`` of ``[outputs][4]``, or ``[4][outputs]`` with the inputs first;
    int8 or, where they leave it, int16."""
    count, depth, height, width = layer.weights.shape
    rows, columns = blocks(count, outputs), blocks(depth)
    padded = np.zeros(
        (rows * outputs, columns * LANES, height, width), np.int16 if is_wide(layer) else np.int8
    )
    padded[:count, :depth] = layer.weights
    each = padded.reshape(rows, outputs, columns, LANES, height, width)
    return each.transpose(0, 4, 5, 2, *((3, 1) if inputs_first else (1, 3))).tobytes()


def depthwise_weights(layer: Conv, pixels: int) -> bytes:
    """``[ceil(C/4)][kh][kw][pixels][4]``, int16: the same for every pixel."""
    channels, _, height, width = layer.weights.shape
    padded = np.zeros((blocks(channels) * LANES, height, width), np.int16)
    padded[:channels] = layer.weights[:, 0]
    each = padded.reshape(-1, LANES, height, width).transpose(0, 2, 3, 1)
    return np.repeat(each[:, :, :, None], pixels, axis=3).tobytes()


def per_channel(values: NDArray[Any], lanes: int = LANES) -> bytes:
    """Biases or scales."""
    padded = np.zeros(blocks(len(values), lanes) * lanes, values.dtype)
    padded[: len(values)] = values
    return padded.tobytes()
