"""The codec: what goes in comes out, in JSON and binary; everything else is a 400."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from agent.devices.tensors import DTYPES
from agent.serving.http.messages import RequestError
from agent.serving.protocol.data import Array
from agent.serving.protocol.header import Wanted
from agent.serving.protocol.request import HEADER_LENGTH, Decoder, InferRequest
from agent.serving.protocol.response import encode
from agent.types import TensorSpec

X = TensorSpec("x", "FP32", (-1, 2))
Y = TensorSpec("y", "INT8", (2,))


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Array]:
    result = {}
    for name in draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True)):
        dtype = draw(st.sampled_from(sorted(DTYPES.keys() - {"BYTES"})))
        shape = draw(array_shapes(min_dims=0, max_dims=4, max_side=4))
        result[name] = draw(arrays(DTYPES[dtype], shape))
    return result


def specs(values: dict[str, Array]) -> list[TensorSpec]:
    names = {dtype: name for name, dtype in DTYPES.items()}
    return [TensorSpec(name, names[array.dtype], array.shape) for name, array in values.items()]


def document(values: dict[str, Array], binary: bool, nested: bool) -> tuple[bytes, str | None]:
    inputs, data = [], b""
    for spec, array in zip(specs(values), values.values(), strict=True):
        entry: dict[str, Any] = {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            data += array.tobytes()
        else:
            entry["data"] = array.tolist() if nested and array.ndim else array.reshape(-1).tolist()
        inputs.append(entry)
    head = json.dumps({"id": "r1", "inputs": inputs}).encode()
    return head + data, str(len(head)) if binary else None


@given(tensors(), st.booleans(), st.booleans())
def test_requests_round_trip(values: dict[str, Array], binary: bool, nested: bool) -> None:
    body, length = document(values, binary, nested)
    request = Decoder(specs(values), [Y]).decode(memoryview(bytearray(body)), length)
    assert request.id == "r1" and request.outputs == (Wanted("y"),)
    for name, array in values.items():
        got = request.tensors[name]
        assert got.dtype == array.dtype and got.flags.c_contiguous and got.flags.aligned
        np.testing.assert_array_equal(got, array)


@given(tensors(), st.booleans())
def test_responses_round_trip(values: dict[str, Array], binary: bool) -> None:
    request = InferRequest("r1", {}, tuple(Wanted(name, binary) for name in values))
    reply = encode("m", "1", request, {name: np.array(array, order="F") for name, array in values.items()})
    body = b"".join(bytes(part) for part in reply.parts)
    split = int(reply.headers[HEADER_LENGTH]) if binary else len(body)
    answer, data = json.loads(body[:split]), body[split:]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("m", "1", "r1")
    for entry, (name, array) in zip(answer["outputs"], values.items(), strict=True):
        assert (entry["name"], entry["shape"]) == (name, list(array.shape))
        dtype = DTYPES[entry["datatype"]]
        if binary:
            size = entry["parameters"]["binary_data_size"]
            got, data = np.frombuffer(data[:size], dtype), data[size:]
        else:
            got = np.array(entry["data"], dtype)
        np.testing.assert_array_equal(got.reshape(array.shape), array)
    assert data == b""


def good() -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]},
            {"name": "y", "datatype": "INT8", "shape": [2], "data": [-128, 127]},
        ]
    }


def send(value: Any, data: bytes = b"", length: str | None = None) -> InferRequest:
    head = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Decoder([X, Y], [X, Y]).decode(memoryview(head + data), length)


def changed(index: int = 0, **fields: Any) -> dict[str, Any]:
    value = good()
    value["inputs"][index].update(fields)
    return value


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BAD: dict[str, Any] = {
    "not JSON": b"{",
    "not UTF-8": b'{"id": "\xff"}',
    "not an object": b"[1]",
    "null": b"null",
    "no inputs": {},
    "inputs no list": {"inputs": {}},
    "inputs no objects": {"inputs": [1]},
    "a key twice": b'{"inputs": [], "inputs": []}',
    "a missing input": {"inputs": good()["inputs"][:1]},
    "an input twice": {"inputs": [*good()["inputs"], good()["inputs"][0]]},
    "an unknown input": changed(name="z"),
    "a name that is no string": changed(name=["x"]),
    "another datatype": changed(datatype="FP64"),
    "a datatype that is no string": changed(datatype={}),
    "too many dimensions": changed(shape=[1, 1, 2]),
    "another size": changed(shape=[1, 3], data=[1, 2, 3]),
    "a negative size": changed(shape=[-1, 2]),
    "a size of zero": changed(shape=[0, 2], data=[]),
    "an overflowing size": changed(shape=[1 << 62, 2]),
    "a shape of floats": changed(shape=[1.0, 2]),
    "a shape of booleans": changed(shape=[True, 2]),
    "a shape that is no list": changed(shape=2),
    "too few values": changed(data=[1]),
    "too many values": changed(data=[1, 2, 3]),
    "wrongly nested": changed(data=[[1], [2]]),
    "unevenly nested": changed(shape=[2, 2], data=[[1, 2], [3]]),
    "half nested": changed(shape=[2, 2], data=[[1, 2], 3, 4]),
    "strings": changed(data=["1", "2"]),
    "booleans as numbers": changed(data=[True, False]),
    "null as a number": changed(data=[None, 1]),
    "data that is no list": changed(data="AAAA"),
    "no data": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}, good()["inputs"][1]]},
    "beyond FP32": changed(data=[1e300, 1]),
    "beyond FP64": changed(data=[10**400, 1]),
    "beyond INT8": changed(1, data=[128, 0]),
    "beyond INT64": changed(1, data=[1 << 70, 0]),
    "a float for an integer": changed(1, data=[1.5, 0]),
    "NaN for an integer": changed(1, data=[float("nan"), 0]),
    "an id that is no string": {**good(), "id": 7},
    "a long id": {**good(), "id": "x" * 2000},
    "outputs no list": {**good(), "outputs": {"name": "x"}},
    "an unknown output": {**good(), "outputs": [{"name": "z"}]},
    "an output twice": {**good(), "outputs": [{"name": "x"}, {"name": "x"}]},
    "a flag that is no boolean": {**good(), "outputs": [{"name": "x", "parameters": {"binary_data": 1}}]},
    "parameters no object": {**good(), "parameters": []},
    "shared memory": changed(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8}),
    "a sequence": {**good(), "parameters": {"sequence_id": 3}},
    "deep": {**good(), "extra": deep(40)},
    "very deep": b'{"inputs":' + b"[" * 200_000,
    "deep data": changed(data=deep(40)),
    "binary without its header": changed(parameters={"binary_data_size": 8}),
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_malformed_requests_are_refused_with_a_reason(value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        send(value)
    assert caught.value.status == 400 and 5 < len(str(caught.value)) < 500


def binary(size: Any) -> dict[str, Any]:
    value = good()
    value["inputs"][0] = {
        "name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}
    }  # fmt: skip
    return value


@pytest.mark.parametrize(
    ("size", "data", "length"),
    [
        (8, b"1234567", None),  # truncated
        (8, b"123456789", None),  # something is left
        (4, b"1234", None),  # does not fit the shape
        (-8, b"12345678", None),
        ("8", b"12345678", None),
        (8, b"12345678", "100000"),
        (8, b"12345678", "-1"),
        (8, b"12345678", "x"),
        (8, b"12345678", "9" * 30),
        (8, b"12345678", "0"),
    ],
)
def test_binary_data_must_fit(size: Any, data: bytes, length: str | None) -> None:
    value = binary(size)
    with pytest.raises(RequestError) as caught:
        send(value, data, length or str(len(json.dumps(value))))
    assert caught.value.status == 400


def test_a_tensor_cannot_have_both_kinds_of_data() -> None:
    value = changed(parameters={"binary_data_size": 8})
    with pytest.raises(RequestError, match="binary_data_size and data"):
        send(value, b"12345678", str(len(json.dumps(value))))


def test_batches_must_agree() -> None:
    entries = [
        {"name": n, "datatype": "FP32", "shape": [b, 1], "data": [0] * b} for n, b in (("a", 1), ("b", 2))
    ]
    wanted = [TensorSpec(name, "FP32", (-1, 1)) for name in "ab"]
    with pytest.raises(RequestError, match="batch"):
        Decoder(wanted, [Y]).decode(memoryview(json.dumps({"inputs": entries}).encode()), None)


def test_outputs_as_asked_for() -> None:
    assert send(good()).outputs == (Wanted("x", samples=True), Wanted("y"))
    both = {**good(), "parameters": {"binary_data_output": True}}
    assert send(both).outputs == (Wanted("x", True, samples=True), Wanted("y", True))
    mixed = {**both, "outputs": [{"name": "y", "parameters": {"binary_data": False}}, {"name": "x"}]}
    assert send(mixed).outputs == (Wanted("y"), Wanted("x", True, samples=True))


def test_floats_may_be_nan_and_infinite() -> None:
    got = send(changed(data=[float("nan"), float("-inf")])).tensors["x"]
    assert np.isnan(got[0, 0]) and got[0, 1] == -np.inf


@given(st.binary(max_size=200), st.none() | st.integers(0, 220).map(str))
def test_any_bytes_are_answered(body: bytes, length: str | None) -> None:
    with pytest.raises(RequestError):
        Decoder([X, Y], [X]).decode(memoryview(body), length)
