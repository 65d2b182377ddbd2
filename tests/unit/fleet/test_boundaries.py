from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from agent.devices.litert_cpu import TINY
from agent.errors import ModelLoadError
from agent.fleet.boundaries import tensor_boundaries
from tests.unit.fleet.models import onnx_bytes, weights

ONNX = onnx_bytes(weights())


def tflite_bytes(*buffers: bytes) -> bytes:
    """A TFLite file of nothing but buffers, built by hand after schema.fbs."""
    body = bytearray(struct.pack("<I4s", 0, b"TFL3"))

    def table(fields: dict[int, int]) -> int:
        """Append a vtable and its table of zeroed offsets; the table's position. ``fields``: index → slot."""
        vtable = len(body)
        slots = max(fields) + 1
        entries = [4 + 4 * fields[index] if index in fields else 0 for index in range(slots)]
        body.extend(struct.pack(f"<HH{slots}H", 4 + 2 * slots, 4 + 4 * len(fields), *entries))
        position = len(body)
        body.extend(struct.pack("<i", position - vtable) + bytes(4 * len(fields)))
        return position

    model = table({4: 0})
    struct.pack_into("<I", body, 0, model)
    vector = len(body)
    struct.pack_into("<I", body, model + 4, vector - (model + 4))
    body.extend(struct.pack("<I", len(buffers)) + bytes(4 * len(buffers)))
    for index, content in enumerate(buffers):
        slot = vector + 4 + 4 * index
        buffer = table({0: 0})
        struct.pack_into("<I", body, slot, buffer - slot)
        struct.pack_into("<I", body, buffer + 4, len(body) - (buffer + 4))
        body.extend(struct.pack("<I", len(content)) + content)
    return bytes(body)


def test_onnx_initialisers_are_found_exactly() -> None:
    raw = weights().tobytes()
    start = ONNX.index(raw)
    assert tensor_boundaries(ONNX, "onnx") == [start, start + len(raw)]


def test_onnx_constants_inside_nodes_are_found() -> None:
    tensor = numpy_helper.from_array(weights(), "value")
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    output = helper.make_tensor_value_info("c", TensorProto.FLOAT, [64, 32])
    data = helper.make_model(helper.make_graph([node], "g", [], [output])).SerializeToString()
    start = data.index(weights().tobytes())
    assert tensor_boundaries(data, "onnx") == [start, start + 64 * 32 * 4]


def test_small_tensors_make_no_cut() -> None:
    assert tensor_boundaries(onnx_bytes(weights()[:, :1]), "onnx") == []
    assert len(tensor_boundaries(onnx_bytes(weights()[:, :2]), "onnx")) == 2
    assert tensor_boundaries(TINY, "tflite") == []


def test_tflite_buffers_are_found_exactly() -> None:
    first, second = bytes([1]) * 5000, bytes([2]) * 4096
    data = tflite_bytes(b"", first, b"small", second)
    edges = [data.index(first), data.index(first) + 5000, data.index(second), data.index(second) + 4096]
    assert tensor_boundaries(data, "tflite") == edges


def test_weights_in_other_files_are_refused() -> None:
    tensor = numpy_helper.from_array(np.zeros((4,), np.float32), "w")
    tensor.external_data.add(key="location", value="weights.bin")
    data = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    with pytest.raises(ModelLoadError, match="save it in one"):
        tensor_boundaries(data, "onnx")


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", ONNX[:-1], ONNX[:100], base64.b64encode(ONNX), b"\xff" * 50]
)
def test_not_onnx(data: bytes) -> None:
    with pytest.raises(ModelLoadError, match="ONNX"):
        tensor_boundaries(data, "onnx")


@pytest.mark.parametrize(
    "data", [b"", TINY[:20], ONNX, b"\xff\xff\xff\xffTFL3", b"\x08\0\0\0TFL3" + b"\xff" * 8]
)
def test_not_tflite(data: bytes) -> None:
    with pytest.raises(ModelLoadError, match="TFLite"):
        tensor_boundaries(data, "tflite")


@settings(max_examples=200)
@given(at=st.integers(0, 400), byte=st.integers(0, 255), tail=st.integers(0, 400))
@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_damage_gives_edges_within_the_file_or_the_named_error(
    file_format: str, at: int, byte: int, tail: int
) -> None:
    whole = ONNX if file_format == "onnx" else tflite_bytes(b"a" * 5000, b"b" * 10)
    data = bytearray(whole)
    data[at] = byte
    del data[len(data) - tail :]
    try:
        edges = tensor_boundaries(bytes(data), file_format)
    except ModelLoadError:
        return
    assert all(0 <= edge <= len(data) for edge in edges)
