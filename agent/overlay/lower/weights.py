"""Weights as the overlay reads them: rows of 2 x lanes bytes, parameters first (see bitstreams/npu/README.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.overlay.lower.views import ceil_div

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
TAPS = 3  # rows and columns of the depthwise window


def split_bytes(weights: Int16) -> list[Int8]:
    """int8 arrays whose sum is ``weights``: one where they fit, two for 9 bits, three when 255 is among them."""
    parts: list[Int8] = []
    rest = weights.astype(np.int32)
    while not parts or rest.any():
        part = rest.clip(-128, 127)
        parts.append(part.astype(np.int8))
        rest = rest - part
    return parts


def nine_bits(weights: Int16) -> bool:
    """Whether int8 does not hold them."""
    return bool(((weights < -128) | (weights > 127)).any())


def parameters(bias: NDArray[np.int32], scale: NDArray[np.float32], lanes: int) -> NDArray[np.uint8]:
    """``[blocks, 8 x lanes]`` bytes: biases and scales of each lane block. Lanes without a channel: 0 and 1."""
    blocks = ceil_div(len(bias), lanes)
    padded_bias = np.zeros(blocks * lanes, "<i4")
    padded_scale = np.ones(blocks * lanes, "<f4")
    padded_bias[: len(bias)] = bias
    padded_scale[: len(scale)] = scale
    both = (padded_bias.view(np.uint8), padded_scale.view(np.uint8))
    return np.concatenate([each.reshape(blocks, -1) for each in both], axis=1)


def plane_passes(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
    """``[out, in, kh, kw]`` → ``[out blocks, kh, kw, in blocks, lanes (out), lanes (in)]``."""
    out, into, kh, kw = weights.shape
    a, d = ceil_div(out, lanes), ceil_div(into, lanes)
    padded = np.zeros((a * lanes, d * lanes, kh, kw), weights.dtype)
    padded[:out, :into] = weights
    return padded.reshape(a, lanes, d, lanes, kh, kw).transpose(0, 4, 5, 2, 1, 3)


def diagonal_passes(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Depthwise ``[channels, 1, kh, kw]`` as a convolution block by block: ``[blocks, kh, kw, 1, lanes, lanes]``."""
    channels, _, kh, kw = weights.shape
    blocks = ceil_div(channels, lanes)
    padded = np.zeros((blocks * lanes, kh, kw), weights.dtype)
    padded[:channels] = weights[:, 0]
    passes = np.zeros((blocks, kh, kw, 1, lanes, lanes), weights.dtype)
    diagonal = np.arange(lanes)
    passes[:, :, :, 0, diagonal, diagonal] = padded.reshape(blocks, lanes, kh, kw).transpose(0, 2, 3, 1)
    return passes


def dilated(weights: NDArray[Any], dilation: tuple[int, int]) -> NDArray[Any]:
    """The kernel with zeros where a dilated one skips."""
    out, into, kh, kw = weights.shape
    dy, dx = dilation
    wide = np.zeros((out, into, (kh - 1) * dy + 1, (kw - 1) * dx + 1), weights.dtype)
    wide[:, :, ::dy, ::dx] = weights
    return wide


def packed_passes(weights: NDArray[Any], stack: int, lanes: int) -> NDArray[Any]:
    """``[out, channels, kh, kw]`` over packed pixels → ``[out blocks, row chunks, column chunks, 1, lanes, lanes]``.

    A chunk has ``stack`` kernel rows and lanes / 4 kernel columns; byte 4 x column + row x channels + channel.
    """
    out, channels, kh, kw = weights.shape
    pixels = lanes // 4
    a, b, c = ceil_div(out, lanes), ceil_div(kh, stack), ceil_div(kw, pixels)
    padded = np.zeros((a * lanes, channels, b * stack, c * pixels), weights.dtype)
    padded[:out, :, :kh, :kw] = weights
    taps = padded.reshape(a, lanes, channels, b, stack, c, pixels).transpose(0, 3, 5, 1, 6, 4, 2)
    quads = np.zeros((a, b, c, lanes, pixels, 4), weights.dtype)
    quads[..., : stack * channels] = taps.reshape(a, b, c, lanes, pixels, stack * channels)
    return quads.reshape(a, b, c, 1, lanes, lanes)


def depthwise_taps(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
    """``[channels, 1, kh, kw]`` → ``[blocks, 3 x 3 windows, 10 x lanes]``: nine taps of each lane, and lanes unused."""
    channels, _, kh, kw = weights.shape
    blocks, down, across = ceil_div(channels, lanes), ceil_div(kh, TAPS), ceil_div(kw, TAPS)
    padded = np.zeros((blocks * lanes, down * TAPS, across * TAPS), weights.dtype)
    padded[:channels, :kh, :kw] = weights[:, 0]
    windows = padded.reshape(blocks, lanes, down, TAPS, across, TAPS).transpose(0, 2, 4, 3, 5, 1)
    taps = np.zeros((blocks, down * across, TAPS * TAPS + 1, lanes), weights.dtype)
    taps[:, :, :-1] = windows.reshape(blocks, down * across, TAPS * TAPS, lanes)
    return taps.reshape(blocks, down * across, -1)


def streams(heads: NDArray[np.uint8], parts: list[Int8]) -> bytes:
    """Block by block, part by part: the parameters and the part's weights (``parts``: ``[blocks, bytes]`` each)."""
    if not parts:
        return heads.tobytes()
    pieces = [np.concatenate([heads, part.view(np.uint8)], axis=1) for part in parts]
    return np.concatenate(pieces, axis=1).tobytes()
