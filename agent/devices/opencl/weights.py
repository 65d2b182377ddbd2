"""Constants of a convolution, as the kernels read them: lanes of four, what is missing filled with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.graph import Conv

LANES = 4


def blocks(channels: int) -> int:
    """Blocks of four channels."""
    return -(-channels // LANES)


def is_wide(layer: Conv) -> bool:
    """Whether its weights leave int8."""
    return bool(layer.weights.size) and not -128 <= layer.weights.min() <= layer.weights.max() <= 127


def conv_weights(layer: Conv) -> bytes:
    """``[ceil(out/4)][ceil(in/4)][kh][kw][out: 4][in: 4]``, int8 or, where they leave it, int16."""
    outputs, inputs, height, width = layer.weights.shape
    rows, columns = blocks(outputs), blocks(inputs)
    padded = np.zeros((rows * LANES, columns * LANES, height, width), np.int16 if is_wide(layer) else np.int8)
    padded[:outputs, :inputs] = layer.weights
    each = padded.reshape(rows, LANES, columns, LANES, height, width)
    return each.transpose(0, 2, 4, 5, 1, 3).tobytes()


def depthwise_weights(layer: Conv) -> bytes:
    """``[ceil(C/4)][kh][kw][4]``, int16."""
    channels, _, height, width = layer.weights.shape
    padded = np.zeros((blocks(channels) * LANES, height, width), np.int16)
    padded[:channels] = layer.weights[:, 0]
    return padded.reshape(-1, LANES, height, width).transpose(0, 2, 3, 1).tobytes()


def per_channel(values: NDArray[Any]) -> bytes:
    """Biases or scales."""
    padded = np.zeros(blocks(len(values)) * LANES, values.dtype)
    padded[: len(values)] = values
    return padded.tobytes()
