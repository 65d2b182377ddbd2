"""The codec: what goes in comes out, in JSON and binary; everything else is a 400."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.http.messages import RequestError
from agent.serving.protocol.data import Array
from agent.serving.protocol.header import RegionSlice, Wanted
from agent.serving.protocol.jsontext import MAX_ELEMENTS
from agent.serving.protocol.request import Decoder, InferRequest
from agent.types import TensorSpec
from tests.unit.serving.requests import WAYS, Memory, make_request, specs, tensors

X = TensorSpec("x", "FP32", (-1, 2))
Y = TensorSpec("y", "INT8", (2,))
S = TensorSpec("s", "BYTES", (2,))


@given(st.data(), st.booleans())
def test_requests_round_trip(data: st.DataObject, aligned: bool) -> None:
    values = data.draw(tensors(text=True))
    ways = {name: data.draw(st.sampled_from(WAYS)) for name in values}
    body, length, memory = make_request(values, ways)
    place = bytearray(len(body) + 1)
    place[1 - aligned : len(place) - aligned] = body
    got = Decoder(specs(values), [Y]).decode(
        memoryview(place)[1 - aligned : len(place) - aligned], length, memory
    )
    assert got.id == "r1" and got.outputs == (Wanted("y"),)
    for name, array in values.items():
        tensor = got.tensors[name]
        assert tensor.dtype == array.dtype and tensor.flags.c_contiguous and tensor.flags.aligned
        np.testing.assert_array_equal(tensor, array)


@given(tensors())
def test_strings_may_be_any_bytes_but_in_json(values: dict[str, Array]) -> None:
    body, length, _ = make_request(values, dict.fromkeys(values, "binary"))
    got = Decoder(specs(values), [Y]).decode(memoryview(body), length)
    for name, array in values.items():
        np.testing.assert_array_equal(got.tensors[name], array)


def test_a_request_that_begins_like_an_earlier_one_has_data_of_its_own() -> None:
    decoder = Decoder([X], [Y])
    for value in (1.0, 2.0):
        for way in ("binary", "shared"):
            array = np.full((1, 2), value, np.float32)
            body, length, memory = make_request({"x": array}, {"x": way})
            got = decoder.decode(memoryview(body), length, memory)
            np.testing.assert_array_equal(got.tensors["x"], array)
    for other in range(100):  # more than are remembered
        body, length, _ = make_request(
            {"x": np.full((1, 2), other, np.float32)}, {"x": "binary"}, nonce=other
        )
        assert decoder.decode(memoryview(body), length).tensors["x"].tolist() == [[other, other]]


def test_integers_in_shared_memory_cannot_change_under_the_model() -> None:
    specs = [TensorSpec("i", "INT64", (1,)), TensorSpec("f", "FP32", (1,))]
    values: dict[str, Array] = {"i": np.array([7], np.int64), "f": np.array([7], np.float32)}
    body, length, memory = make_request(values, {"i": "shared", "f": "shared"})
    got = Decoder(specs, [Y]).decode(memoryview(body), length, memory)
    memory.regions["r"][:] = bytes(12)
    assert got.tensors["i"].tolist() == [7] and got.tensors["f"].tolist() == [0]


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
    "a shape of floats": changed(shape=[1.5, 2]),
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
    "a sequence": {**good(), "parameters": {"sequence_id": 3}},
    "a negative timeout": {**good(), "parameters": {"timeout": -1}},
    "a timeout of half a microsecond": {**good(), "parameters": {"timeout": 0.5}},
    "an endless timeout": {**good(), "parameters": {"timeout": 1 << 64}},
    "a timeout of many digits": {**good(), "parameters": {"timeout": 10**4000}},
    "a priority that is a text": {**good(), "parameters": {"priority": "1"}},
    "a negative number of classes": {
        **good(),
        "outputs": [{"name": "x", "parameters": {"classification": -1}}],
    },
    "a number of classes that is none": {
        **good(),
        "outputs": [{"name": "x", "parameters": {"classification": True}}],
    },
    "a key twice beside data": b'{"id":"a","id":"b","inputs":[{"name":"x","data":[1,2]}]}',
    "a key twice, hidden": b'{"id":"\\u003a","id":"b","inputs":[]}',
    "a key twice in data": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[{"a":1,"a":2}]}]}',
    "many values": {**good(), "extra": [0] * 20_000},
    "many keys": {**good(), "extra": {str(index): 0 for index in range(20_000)}},
    "objects as data": changed(data=[{"a": 1}, 2]),
    "NaN as a size": changed(shape=[float("nan"), 2]),
    "a huge name": changed(name="x" * 100_000),
    "UTF-16": json.dumps(good()).encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf" + json.dumps(good()).encode(),
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


@pytest.mark.parametrize(
    "data",
    [
        ["a"],
        ["a", "b", "c"],
        ["a", 1],
        ["a", None],
        "ab",
        [["a"], ["b", "c"]],
        ["a", "\ud800"],
        [b"a".hex(), ["b"]],
    ],
    ids=str,
)
def test_malformed_strings_are_refused(data: Any) -> None:
    entry = {"name": "s", "datatype": "BYTES", "shape": [2], "data": data}
    with pytest.raises(RequestError) as caught:
        Decoder([S], [Y]).decode(memoryview(json.dumps({"inputs": [entry]}).encode()), None)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0\0\0a",  # one of two
        b"\1\0\0\0a\0\0\0",  # the second length is cut
        b"\1\0\0\0a\2\0\0\0b",  # the second string is cut
        b"\1\0\0\0a\1\0\0\0bc",  # something is left
        b"\xff\xff\xff\xffa\0\0\0\0",
    ],
)
@pytest.mark.parametrize("way", ["binary", "shared"])
def test_lengths_of_binary_strings_must_add_up(data: bytes, way: str) -> None:
    places = {
        "binary": {"binary_data_size": len(data)},
        "shared": {"shared_memory_region": "r", "shared_memory_byte_size": len(data)},
    }
    entry = {"name": "s", "datatype": "BYTES", "shape": [2], "parameters": places[way]}
    head = json.dumps({"inputs": [entry]}).encode()
    body = memoryview(head + data if way == "binary" else head)
    with pytest.raises(RequestError, match="'s'"):
        Decoder([S], [Y]).decode(body, str(len(head)), Memory(r=data))


def test_json_of_more_values_than_memory_is_for_is_refused() -> None:
    body = b'{"inputs":[' + b"[]," * MAX_ELEMENTS + b"[]]}"
    with pytest.raises(RequestError) as caught:
        send(body)
    assert caught.value.status == 413


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


SHARED: dict[str, dict[str, Any]] = {
    "no size": {"shared_memory_region": "r"},
    "no region": {"shared_memory_byte_size": 8},
    "a name that is no string": {"shared_memory_region": 1, "shared_memory_byte_size": 8},
    "no name": {"shared_memory_region": "", "shared_memory_byte_size": 8},
    "a negative offset": {
        "shared_memory_region": "r",
        "shared_memory_byte_size": 8,
        "shared_memory_offset": -1,
    },
    "a size of two tensors": {"shared_memory_region": "r", "shared_memory_byte_size": 16},
    "beyond its end": {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 1},
    "another region": {"shared_memory_region": "q", "shared_memory_byte_size": 8},
    "binary data as well": {"shared_memory_region": "r", "shared_memory_byte_size": 8, "binary_data_size": 8},
}


@pytest.mark.parametrize("parameters", SHARED.values(), ids=SHARED.keys())
def test_shared_memory_must_be_named_as_it_is(parameters: dict[str, Any]) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": parameters}
    body = memoryview(json.dumps({"inputs": [entry]}).encode())
    with pytest.raises(RequestError) as caught:
        Decoder([X], [Y]).decode(body, None, Memory(r=bytes(8)))
    assert caught.value.status == 400


def test_shared_memory_that_is_off_says_what_turns_it_on() -> None:
    body, length, _ = make_request({"x": np.zeros((1, 2), np.float32)}, {"x": "shared"})
    with pytest.raises(RequestError, match=r"serving\.shared_memory = true"):
        Decoder([X], [Y]).decode(memoryview(body), length)
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    with pytest.raises(RequestError, match=r"serving\.shared_memory = true"):
        send({**good(), "outputs": [{"name": "x", "parameters": place}]})


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


def test_outputs_may_be_classes_or_go_to_shared_memory() -> None:
    place = {"shared_memory_region": "r", "shared_memory_offset": 3, "shared_memory_byte_size": 8}
    outputs = [{"name": "y", "parameters": place}, {"name": "x", "parameters": {"classification": 2}}]
    value = {**good(), "outputs": outputs, "parameters": {"binary_data_output": True}}
    got = Decoder([X, Y], [X, Y]).decode(memoryview(json.dumps(value).encode()), None, Memory())
    assert got.outputs == (
        Wanted("y", region=RegionSlice("r", 3, 8)),
        Wanted("x", True, classes=2, samples=True),
    )


@pytest.mark.parametrize("extra", [{"classification": 1}, {"binary_data": True}])
def test_an_output_in_shared_memory_is_nothing_else(extra: dict[str, Any]) -> None:
    parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 8, **extra}
    value = {**good(), "outputs": [{"name": "x", "parameters": parameters}]}
    with pytest.raises(RequestError, match="excludes"):
        Decoder([X, Y], [X, Y]).decode(memoryview(json.dumps(value).encode()), None, Memory())


def test_strings_have_no_classes() -> None:
    value = {**good(), "outputs": [{"name": "s", "parameters": {"classification": 1}}]}
    with pytest.raises(RequestError, match="largest"):
        Decoder([X, Y], [S]).decode(memoryview(json.dumps(value).encode()), None)


def test_deadline_priority_and_batch() -> None:
    plain = send(good())
    assert (plain.timeout_s, plain.priority, plain.batch) == (None, 0, 1)
    value = changed(shape=[3, 2], data=[0] * 6)
    asked = send({**value, "parameters": {"timeout": 2500, "priority": 1, "anything": [1]}})
    assert (asked.timeout_s, asked.priority, asked.batch) == (0.0025, 1, 3)
    assert send({**good(), "parameters": {"timeout": 0}}).timeout_s is None


def test_a_body_without_a_header_is_the_only_input() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    got = Decoder([X], [X, Y]).decode(memoryview(array.tobytes()), "0")
    np.testing.assert_array_equal(got.tensors["x"], array)
    assert got.batch == 3 and got.outputs == (Wanted("x", True, samples=True), Wanted("y", True))
    for shape in [(), (1,), (-1, 1)]:
        text = Decoder([TensorSpec("s", "BYTES", shape)], [Y]).decode(memoryview(b"a\xff"), "0").tensors["s"]
        assert text.reshape(-1).tolist() == [b"a\xff"] and text.ndim == len(shape)


@pytest.mark.parametrize(
    ("inputs", "body"), [([X], b""), ([X], b"1234567"), ([S], b"ab"), ([X, Y], b"1234567812"), ([Y], b"1")]
)
def test_a_body_without_a_header_must_fit(inputs: list[TensorSpec], body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        Decoder(inputs, [Y]).decode(memoryview(body), "0")
    assert caught.value.status == 400


def test_half_precision_may_be_json() -> None:
    entry = {"name": "h", "datatype": "FP16", "shape": [3], "data": [1.0009765625, 1, 65504]}
    body = memoryview(json.dumps({"inputs": [entry]}).encode())
    got = Decoder([TensorSpec("h", "FP16", (3,))], [Y]).decode(body, None).tensors["h"]
    assert got.dtype == np.float16 and got.tolist() == [1.0009765625, 1, 65504]


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("INT8", -128, 127), ("UINT16", 0, 2**16 - 1), ("INT64", -(2**63), 2**63 - 1), ("UINT64", 0, 2**64 - 1)],
)
def test_integers_reach_to_their_bounds_and_no_further(kind: str, low: int, high: int) -> None:
    decoder = Decoder([TensorSpec("i", kind, (2,))], [Y])

    def ask(*data: int) -> list[int]:
        entry = {"name": "i", "datatype": kind, "shape": [2], "data": data}
        body = memoryview(json.dumps({"inputs": [entry]}).encode())
        values: list[int] = decoder.decode(body, None).tensors["i"].tolist()
        return values

    assert ask(low, high) == [low, high]
    for data in ((low - 1, 0), (0, high + 1)):
        with pytest.raises(RequestError):
            ask(*data)


def test_strings_with_colons_and_escapes() -> None:
    texts = ["a:b", ":::", 'q"\\u003a', "\u2028\U0001f600", "\0"]
    entry = {"name": "s", "datatype": "BYTES", "shape": [5], "data": texts}
    for ascii_only in (True, False):
        body = memoryview(json.dumps({"inputs": [entry]}, ensure_ascii=ascii_only).encode())
        got = Decoder([TensorSpec("s", "BYTES", (5,))], [Y]).decode(body, None).tensors["s"]
        assert got.tolist() == [text.encode() for text in texts]


def test_floats_may_be_nan_and_infinite() -> None:
    got = send(changed(data=[float("nan"), float("-inf")])).tensors["x"]
    assert np.isnan(got[0, 0]) and got[0, 1] == -np.inf


@given(st.binary(max_size=200), st.none() | st.integers(0, 220).map(str))
def test_any_bytes_are_answered(body: bytes, length: str | None) -> None:
    with pytest.raises(RequestError):
        Decoder([X, Y], [X]).decode(memoryview(body), length)
