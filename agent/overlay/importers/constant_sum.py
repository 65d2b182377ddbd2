"""Additions of constants: a depthwise convolution with one weight for each channel gives the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.overlay import arith
from agent.overlay.graph import Conv, Int8
from agent.overlay.importers.building import Builder, Output, Unfit, positions_of
from agent.overlay.importers.layers import arrangement

LARGEST_WEIGHT, SMALLEST_WEIGHT = 255, 16
STEPS = (0, 1, -1, 2, -2)  # from the nearest bias

Line = tuple[NDArray[np.int16], NDArray[np.int32], NDArray[np.float32]]


def constant_addition(
    builder: Builder, source: str, constants: Int8, ratios: tuple[int, int, int, int], output: Output
) -> None:
    """``constants``: as large as the input, the same for all pixels of a channel. ``ratios``: those of graph.Add, the
    input's first. Raises Unfit.
    """
    value = builder.values[source]
    order, layout = arrangement(builder, value, output.layout)
    planes = constants.reshape(-1)[positions_of(value)[order]]
    if not np.array_equal(planes, np.broadcast_to(planes[:, :1, :1], planes.shape)):
        raise Unfit("its constant is not the same for all pixels")
    line = _lines(planes[:, 0, 0], ratios, output)
    if line is None:
        raise Unfit("no multiplication by 8 bits gives the sums that the float32 formula gives")
    weights, bias, scale = line
    name = builder.read(source, order)
    builder.write(replace(output, layout=layout), *order.shape)
    builder.layer(
        Conv(
            name=output.nodes[0],
            input=name,
            output=output.name,
            weights=weights.reshape(-1, 1, 1, 1),
            bias=bias,
            scale=scale,
            stride=(1, 1),
            pads=(0, 0, 0, 0),
            dilation=(1, 1),
            depthwise=True,
            pad_value=value.zero_point,
            zero_point=output.zero_point,
            low=output.low,
            high=output.high,
            macs=order.size,
            nodes=output.nodes,
        )
    )


def _lines(constants: Int8, ratios: tuple[int, int, int, int], output: Output) -> Line | None:
    """Weight, bias and scale for each constant, with which all 256 inputs give the sum's bytes.

    The sum is a line through the inputs; a weight near 255 places it to 1/255 of an input's step, which is finer than
    the outputs tell lines apart, as a rule.
    """
    ratio_a, ratio_b, offset, shift = ratios
    inputs = np.arange(-128, 128).astype(np.int8)
    wanted = arith.add(inputs, constants[:, None], *ratios, output.low, output.high)
    base = (constants.astype(np.float64) * ratio_b + offset) / 2.0**shift - output.zero_point
    weights, bias = np.zeros(constants.size, np.int16), np.zeros(constants.size, np.int32)
    scales = np.zeros(constants.size, np.float32)
    left = np.arange(constants.size)
    for weight in range(LARGEST_WEIGHT, SMALLEST_WEIGHT - 1, -1):
        scale = np.float32(ratio_a / 2.0**shift / weight)
        for step in STEPS:
            tried = (np.rint(base[left] / float(scale)) + step).astype(np.int32)
            sums = inputs.astype(np.int32) * weight + tried[:, None]
            got = arith.requantise(sums, scale, output.zero_point, output.low, output.high)
            found = (got == wanted[left]).all(axis=1)
            weights[left[found]], bias[left[found]], scales[left[found]] = weight, tried[found], scale
            left = left[~found]
            if not left.size:
                return weights, bias, scales
    return None
