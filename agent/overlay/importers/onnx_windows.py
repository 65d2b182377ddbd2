"""What ONNX operators slide over their input."""

from __future__ import annotations

from dataclasses import replace

from agent.overlay.graph import Pads, Pair
from agent.overlay.importers import layers
from agent.overlay.importers.building import Unfit
from agent.overlay.importers.layers import Window
from agent.overlay.importers.onnx_model import Node


def window_of(node: Node, kernel: Pair, size: tuple[int, ...]) -> Window:
    """Strides, dilations and padding; a one-dimensional window is one row of two."""
    attributes = node.attributes
    one = len(size) == 1
    stride, dilation = (
        (1, each[0]) if one else (each[0], each[1])
        for each in (attributes.get(name) or [1, 1] for name in ("strides", "dilations"))
    )
    window = Window(kernel, stride, dilation=dilation)
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    height, width = (1, size[0]) if one else size
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return replace(window, pads=layers.same_pads((height, width), window, upper=auto == "SAME_UPPER"))
    pads = (
        list(attributes.get("pads") or [0] * (2 * len(size))) if auto == "NOTSET" else [0] * (2 * len(size))
    )
    full: Pads = (0, pads[0], 0, pads[1]) if one else (pads[0], pads[1], pads[2], pads[3])
    return replace(window, pads=full)


def ceiled(window: Window, size: tuple[int, ...], output: tuple[int, ...]) -> Window:
    """Padding at the ends so that the last windows, which begin inside the input, are there."""
    ends = []
    for length, count, kernel, stride, start, end in zip(
        size[-2:], output[-2:], window.kernel[-len(size) :], window.stride[-len(size) :],
        window.pads[:2][-len(size) :], window.pads[2:][-len(size) :], strict=True,
    ):  # fmt: skip
        if (count - 1) * stride >= length + start:
            raise Unfit("its last window begins in the padding, which ONNX counts and ONNX Runtime does not")
        ends.append(max(end, (count - 1) * stride + kernel - length - start))
    top, left, *_ = window.pads
    return replace(window, pads=(top, left, ends[0] if len(ends) > 1 else 0, ends[-1]))
