"""Multiply-accumulates of an operator, from the shapes of its output, data and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Shape = Sequence[int]


def per_output(out: Shape, _data: Shape, weight: Shape) -> int:
    """Convolution: weights [out, in / groups, kernel...] in ONNX, [out, kernel..., in / groups] in TFLite."""
    return math.prod(out) * math.prod(weight[1:])


def per_input(_out: Shape, data: Shape, weight: Shape) -> int:
    """Transposed convolution in ONNX: weights [in, out / groups, kernel...]."""
    return math.prod(data) * math.prod(weight[1:])


def per_input_last(_out: Shape, data: Shape, weight: Shape) -> int:
    """Transposed convolution in TFLite: weights [out, height, width, in]."""
    return math.prod(data) * math.prod(weight[:-1])


def depthwise(out: Shape, _data: Shape, weight: Shape) -> int:
    """TFLite: weights [1, height, width, out]."""
    return math.prod(out) * math.prod(weight[1:-1])


def product(out: Shape, data: Shape, _weight: Shape) -> int:
    return math.prod(out) * data[-1]


def transposed_product(out: Shape, data: Shape, _weight: Shape) -> int:
    return math.prod(out) * data[-2]


def connected(out: Shape, _data: Shape, weight: Shape) -> int:
    """TFLite: weights [out, in]; the data may have any rank."""
    return math.prod(out) * weight[-1]


Rule = Callable[[Shape, Shape, Shape], int]
