"""Tensors as the source model holds them <-> the bytes of an overlay's regions, as ``program.Binding`` lays them out.

Everything here is strided copies over whole planes. UINT8 becomes INT8 by XOR 0x80 on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import TensorError
from agent.overlay.graph import Int8, Tensor
from agent.overlay.program import Binding

Array = NDArray[Any]
FLIP = np.uint8(0x80)
PIXEL = 4  # bytes of a packed pixel
DTYPES = {"INT8": np.dtype(np.int8), "UINT8": np.dtype(np.uint8)}


def concrete(tensor: Tensor) -> tuple[int, ...]:
    """The source's shape of one sample: an open batch is 1."""
    return tuple(1 if size == -1 else size for size in tensor.shape)


class InputRegion:
    """The bytes of region 1, for one inference after the other in the same memory."""

    def __init__(self, bindings: Sequence[Binding], nbytes: int, lanes: int) -> None:
        """``bindings`` lie within ``nbytes``; what no tensor covers keeps its fill value."""
        self._memory = np.zeros(nbytes, np.int8)
        self._bindings = tuple(bindings)
        self._lanes = lanes
        for binding in bindings:
            if binding.stack:
                self._part(binding)[:] = binding.fill

    def fill(self, tensors: Mapping[str, Array]) -> bytes:
        """The region with these tensors (as the source holds them) in it. TensorError when one does not fit."""
        for binding in self._bindings:
            planes = _planes(binding.tensor, tensors[binding.tensor.name])
            if binding.stack:
                _pack_pixels(binding, planes, self._part(binding))
            else:
                _pack_planes(planes, self._part(binding), self._lanes)
        return self._memory.tobytes()

    def _part(self, binding: Binding) -> Int8:
        return self._memory[binding.offset : binding.offset + packed_bytes(binding, self._lanes)]


def packed_bytes(binding: Binding, lanes: int) -> int:
    """How many bytes the tensor takes in its region."""
    if binding.stack:
        return binding.rows * binding.columns * PIXEL
    tensor = binding.tensor
    return -(-tensor.channels // lanes) * tensor.height * tensor.width * lanes


def unpack(binding: Binding, region: bytes, lanes: int) -> Array:
    """The tensor that lies in ``region`` as planes: a new array as the source model holds it."""
    tensor = binding.tensor
    height, width = tensor.height, tensor.width
    blocks = -(-tensor.channels // lanes)
    packed = np.frombuffer(region, np.int8, blocks * height * width * lanes, binding.offset)
    packed = packed.reshape(blocks, height, width, lanes)
    if tensor.layout == "nhwc":
        rows = packed.transpose(1, 2, 0, 3).reshape(height, width, blocks * lanes)
        source = rows[:, :, : tensor.channels]
    else:
        source = packed.transpose(0, 3, 1, 2).reshape(blocks * lanes, height, width)[: tensor.channels]
    return _flipped(tensor, np.array(source, order="C"))


def check_fits(tensor: Tensor, array: Array) -> None:
    """TensorError when the array is not one sample of the tensor, as the source model holds it."""
    if array.dtype != DTYPES[tensor.dtype] or array.shape != concrete(tensor):
        raise TensorError(
            f"tensor {tensor.name!r}: wanted {tensor.dtype} {list(concrete(tensor))}, "
            f"got {array.dtype} {list(array.shape)}"
        )


def _planes(tensor: Tensor, array: Array) -> Int8:
    """``array`` as int8 ``[channels, height, width]``, a view where it can be."""
    check_fits(tensor, array)
    signed = (array ^ FLIP).view(np.int8) if tensor.dtype == "UINT8" else array
    size = (tensor.channels, tensor.height, tensor.width)
    if tensor.layout == "nhwc":
        return signed.reshape(tensor.height, tensor.width, tensor.channels).transpose(2, 0, 1)
    return signed.reshape(size)


def _pack_planes(planes: Int8, part: Int8, lanes: int) -> None:
    """``[channels, h, w]`` into ``[block][h][w][lane]``; the lanes beyond the last channel stay as they are."""
    _, height, width = planes.shape
    packed = part.reshape(-1, height, width, lanes)
    for block, target in enumerate(packed):
        some = planes[block * lanes : (block + 1) * lanes]
        target[:, :, : len(some)] = some.transpose(1, 2, 0)


def _pack_pixels(binding: Binding, planes: Int8, part: Int8) -> None:
    """``[channels, h, w]`` into ``[rows][columns][4]``, ``stack`` rows of the padded input in each pixel."""
    channels, height, width = planes.shape
    top, left = binding.pads[:2]
    pixels = part.reshape(binding.rows, binding.columns, PIXEL)
    columns = min(width, binding.columns - left)
    for row in range(binding.stack):
        first = max(0, row - top)  # of the input
        last = max(first, min(height, binding.rows + row - top))
        target = pixels[first + top - row : last + top - row, left : left + columns]
        target[:, :, row * channels : (row + 1) * channels] = planes[:, first:last, :columns].transpose(
            1, 2, 0
        )


def _flipped(tensor: Tensor, source: Int8) -> Array:
    """A fresh, contiguous int8 array as the source's datatype and shape."""
    if tensor.dtype == "INT8":
        return source.reshape(concrete(tensor))
    unsigned = source.view(np.uint8)
    np.bitwise_xor(unsigned, FLIP, out=unsigned)
    return unsigned.reshape(concrete(tensor))
