from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import TensorError
from agent.overlay.graph import Tensor
from agent.overlay.packing import InputRegion, packed_bytes, unpack
from agent.overlay.program import Binding

sizes = st.integers(1, 40), st.integers(1, 6), st.integers(1, 6)


@st.composite
def tensors(draw: st.DrawFn, most: int = 40) -> Tensor:
    channels, height, width = (draw(st.integers(1, limit)) for limit in (most, 7, 7))
    layout = draw(st.sampled_from(["nchw", "nhwc"]))
    batch = draw(st.sampled_from([1, -1]))
    shape = (batch, channels, height, width) if layout == "nchw" else (batch, height, width, channels)
    dtype = draw(st.sampled_from(["INT8", "UINT8"]))
    return Tensor("t", channels, height, width, 0, dtype, shape, layout)


def random_array(tensor: Tensor, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """As the source holds it."""
    shape = tuple(abs(size) for size in tensor.shape)
    values = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return values if tensor.dtype == "UINT8" else values.view(np.int8)


def channel_first(tensor: Tensor, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray:
    """int8 [C][H][W], element by element."""
    planes = np.zeros((tensor.channels, tensor.height, tensor.width), np.int8)
    for c, y, x in np.ndindex(planes.shape):
        value = int(array[0, c, y, x] if tensor.layout == "nchw" else array[0, y, x, c])
        planes[c, y, x] = value - 128 if tensor.dtype == "UINT8" else value
    return planes


@given(tensors(), st.sampled_from([8, 16]), st.integers(0, 1 << 30), st.integers(0, 3))
def test_planes_there_and_back(tensor: Tensor, lanes: int, seed: int, before: int) -> None:
    binding = Binding(
        tensor, before * lanes, -(-tensor.channels // lanes) * tensor.height * tensor.width * lanes
    )
    assert packed_bytes(binding, lanes) == binding.nbytes
    array = random_array(tensor, seed)
    region = InputRegion([binding], binding.offset + binding.nbytes, lanes).fill({"t": array})
    back = unpack(binding, region, lanes)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert np.array_equal(back, array)
    planes = channel_first(tensor, array)
    for c, y, x in np.ndindex(planes.shape):
        where = ((c // lanes * tensor.height + y) * tensor.width + x) * lanes + c % lanes
        assert np.int8(np.uint8(region[binding.offset + where]).view(np.int8)) == planes[c, y, x]


@st.composite
def packed(draw: st.DrawFn) -> Binding:
    tensor = draw(tensors(4))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    stack = 4 // tensor.channels
    rows = max(tensor.height + pads[0] + pads[2] - stack + 1, 1)
    columns = -(-(tensor.width + pads[1] + pads[3]) // 4) * 4
    return Binding(tensor, 0, rows * columns * 4, stack, pads, rows, columns, draw(st.integers(-128, 127)))


@given(packed(), st.integers(0, 1 << 30))
def test_packed_pixels_hold_the_padded_input(binding: Binding, seed: int) -> None:
    tensor, (top, left) = binding.tensor, binding.pads[:2]
    array = random_array(tensor, seed)
    region = InputRegion([binding], binding.nbytes, 16).fill({"t": array})
    pixels = np.frombuffer(region, np.int8).reshape(binding.rows, binding.columns, 4)
    planes = channel_first(tensor, array)
    for y, x, r, c in np.ndindex(binding.rows, binding.columns, binding.stack, tensor.channels):
        row, column = y + r - top, x - left
        inside = 0 <= row < tensor.height and 0 <= column < tensor.width
        wanted = planes[c, row, column] if inside else binding.fill
        assert pixels[y, x, r * tensor.channels + c] == wanted


@given(tensors(), st.integers(0, 1 << 30))
def test_nothing_of_the_inference_before_is_left(tensor: Tensor, seed: int) -> None:
    binding = Binding(tensor, 0, -(-tensor.channels // 16) * tensor.height * tensor.width * 16)
    used = InputRegion([binding], binding.nbytes, 16)
    used.fill({"t": random_array(tensor, seed)})
    again = random_array(tensor, seed + 1)
    assert used.fill({"t": again}) == InputRegion([binding], binding.nbytes, 16).fill({"t": again})


def test_tensors_that_do_not_fit_are_named() -> None:
    tensor = Tensor("t", 3, 2, 2, 0, "UINT8", (1, 3, 2, 2), "nchw")
    region = InputRegion([Binding(tensor, 0, 64)], 64, 16)
    with pytest.raises(TensorError, match=r"'t': wanted UINT8 \[1, 3, 2, 2\], got int8 \[1, 3, 2, 2\]"):
        region.fill({"t": np.zeros((1, 3, 2, 2), np.int8)})
    with pytest.raises(TensorError, match=r"got uint8 \[3, 2, 2\]"):
        region.fill({"t": np.zeros((3, 2, 2), np.uint8)})


def test_several_tensors_share_a_region() -> None:
    a, b = (Tensor(name, 16, 1, 1, 0, "INT8", (1, 16), "nchw") for name in "ab")
    region = InputRegion([Binding(b, 16, 16), Binding(a, 0, 16)], 40, 16)
    data = region.fill({"a": np.full((1, 16), 1, np.int8), "b": np.full((1, 16), 2, np.int8)})
    assert data == bytes([1] * 16 + [2] * 16 + [0] * 8)
