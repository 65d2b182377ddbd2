"""Responses: outputs as JSON, binary data, classes, and in shared memory."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.devices.tensors import DTYPES, unpack_strings
from agent.serving.http.messages import Reply, RequestError
from agent.serving.protocol.data import Array
from agent.serving.protocol.header import RegionSlice, Wanted
from agent.serving.protocol.request import HEADER_LENGTH, InferRequest
from agent.serving.protocol.response import encode
from tests.unit.serving.requests import Memory, as_bytes, strings, tensors


def answer(
    wanted: dict[str, Wanted], values: dict[str, Array], memory: Memory | None = None, name: str | None = None
) -> Reply:
    return encode("m", "1", InferRequest(name, {}, tuple(wanted.values())), values, memory)


def document(reply: Reply) -> tuple[Any, bytes]:
    """The JSON of a response and what follows it."""
    body = b"".join(bytes(part) for part in reply.parts)
    split = int(reply.headers.get(HEADER_LENGTH, len(body)))
    return json.loads(body[:split]), body[split:]


def from_bytes(data: bytes, datatype: str, shape: list[int]) -> Array:
    if datatype == "BYTES":
        return unpack_strings(data, shape)
    got: Array = np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    return got


@given(st.data(), st.booleans())
def test_responses_round_trip(data: st.DataObject, fortran: bool) -> None:
    values = data.draw(tensors(text=True))
    wanted, size = {}, 0
    for name, array in values.items():
        way = data.draw(st.sampled_from(["json", "binary", "shared"]))
        region = RegionSlice("r", size, len(as_bytes(array)) + 3) if way == "shared" else None
        size += len(as_bytes(array)) + 3 if region else 0
        wanted[name] = Wanted(name, way == "binary", region)
    memory = Memory(r=bytes(size))
    given = {name: np.array(array, order="F" if fortran else "C") for name, array in values.items()}
    head, binary = document(answer(wanted, given, memory, "r:1"))
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "1", "r:1")
    for entry, (name, array) in zip(head["outputs"], values.items(), strict=True):
        assert (entry["name"], entry["shape"]) == (name, list(array.shape))
        parameters = entry.get("parameters", {})
        if wanted[name].region is not None:
            part = memory.read("r", parameters["shared_memory_offset"], parameters["shared_memory_byte_size"])
            got = from_bytes(bytes(part), entry["datatype"], entry["shape"])
        elif wanted[name].binary:
            length = parameters["binary_data_size"]
            got, binary = from_bytes(binary[:length], entry["datatype"], entry["shape"]), binary[length:]
        else:
            items = [item.encode() if isinstance(item, str) else item for item in entry["data"]]
            got = np.empty(len(items), DTYPES[entry["datatype"]])
            got[:] = items
            got = got.reshape(entry["shape"])
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)
    assert binary == b""


@given(tensors())
def test_any_strings_can_be_had_as_binary_data(values: dict[str, Array]) -> None:
    head, binary = document(answer({name: Wanted(name, True) for name in values}, values))
    assert binary == b"".join(map(as_bytes, values.values()))
    assert [entry["parameters"]["binary_data_size"] for entry in head["outputs"]] == [
        len(as_bytes(array)) for array in values.values()
    ]


def test_binary_outputs_are_not_copied() -> None:
    array = np.arange(5000, dtype=np.float32)
    reply = answer({"y": Wanted("y", True)}, {"y": array})
    assert np.shares_memory(np.frombuffer(reply.parts[1], np.uint8), array)


def test_bytes_that_are_no_text_cannot_be_json() -> None:
    with pytest.raises(RequestError, match="binary_data true") as caught:
        answer({"y": Wanted("y")}, {"y": strings([b"a", b"\xff"])})
    assert caught.value.status == 400


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", ["FP32", "BYTES", "BOOL"])
def test_outputs_without_elements(kind: str, binary: bool) -> None:
    head, data = document(answer({"y": Wanted("y", binary)}, {"y": np.empty((0, 3), DTYPES[kind])}))
    assert head["outputs"][0]["shape"] == [0, 3] and data == b""
    assert (
        head["outputs"][0]["parameters"]["binary_data_size"] == 0
        if binary
        else head["outputs"][0]["data"] == []
    )


def test_floats_that_are_no_numbers_are_pythons_literals() -> None:
    reply = answer({"y": Wanted("y")}, {"y": np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)})
    assert b'"data":[NaN, Infinity, -Infinity, 0.5]' in b"".join(map(bytes, reply.parts))


def test_float32_is_written_as_short_as_it_reads_back() -> None:
    reply = answer({"y": Wanted("y")}, {"y": np.array([0.1, 1 / 3], np.float32)})
    assert b'"data":[0.1,0.33333334]' in b"".join(map(bytes, reply.parts))


def classes(array: Any, count: int, samples: bool = False, binary: bool = False) -> tuple[Any, bytes]:
    head, data = document(answer({"y": Wanted("y", binary, None, count, samples)}, {"y": array}))
    (entry,) = head["outputs"]
    assert entry["datatype"] == "BYTES"
    return entry, data


def test_classes_are_the_largest_values_with_their_places() -> None:
    entry, _ = classes(np.array([1, 5, 10, 4], np.int32), 2)
    assert (entry["shape"], entry["data"]) == ([2], ["10:2", "5:1"])
    entry, _ = classes(np.array([[0.5, np.nan], [2, 2]], np.float32), 9, samples=True)
    assert (entry["shape"], entry["data"]) == ([2, 2], ["0.500000:0", "nan:1", "2.000000:0", "2.000000:1"])
    entry, data = classes(np.array([[0, 255]], np.uint8), 1, samples=True, binary=True)
    assert data == struct.pack("<I5s", 5, b"255:1") and entry["shape"] == [1, 1]


@given(
    st.sampled_from(sorted(DTYPES.keys() - {"BYTES", "BOOL"})),
    st.lists(st.integers(0, 100), min_size=1, max_size=20),
    st.integers(1, 25),
)
def test_classes_of_every_type_are_sorted(kind: str, values: list[int], count: int) -> None:
    entry, _ = classes(np.array(values).astype(DTYPES[kind]), count)
    got = [(float(value), int(index)) for value, index in (text.split(":") for text in entry["data"])]
    want = sorted(
        ((value, index) for index, value in enumerate(values)), key=lambda pair: (-pair[0], pair[1])
    )
    assert got == want[:count]


def test_extreme_integers_are_in_order() -> None:
    entry, _ = classes(np.array([-(2**63), 2**63 - 1, 0], np.int64), 3)
    assert entry["data"] == [f"{2**63 - 1}:1", "0:2", f"{-(2**63)}:0"]
    entry, _ = classes(np.array([0, 2**64 - 1], np.uint64), 2)
    assert entry["data"] == [f"{2**64 - 1}:1", "0:0"]


def test_too_much_to_classify() -> None:
    with pytest.raises(RequestError, match="too many to classify"):
        classes(np.zeros(1_000_001, np.int8), 1)


def test_an_output_larger_than_its_shared_memory_is_refused_and_writes_nothing() -> None:
    memory = Memory(r=bytes(8))
    with pytest.raises(RequestError, match="8 bytes; the request gives it 7"):
        answer({"y": Wanted("y", region=RegionSlice("r", 0, 7))}, {"y": np.ones(2, np.float32)}, memory)
    assert memory.regions["r"] == bytes(8)
