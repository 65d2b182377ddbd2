"""MQTT payloads as requests: read by the worker's own codec, whatever a message holds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.app.bindings.payloads import (
    HEADER_LENGTH,
    json_request,
    parse_metadata,
    raw_answer,
    raw_request,
)
from agent.errors import MessageError, OverlaidError, TensorError
from agent.types import TensorSpec

IMAGE = TensorSpec("image", "FP32", (-1, 1, 2, 3))
FLAG = TensorSpec("flag", "UINT8", (1, 2))


def test_raw_is_one_sample_of_every_input_in_order() -> None:
    image, flag = np.arange(6, dtype="<f4"), bytes([7, 8])
    request = raw_request(image.tobytes() + flag, (IMAGE, FLAG))
    split = int(request.headers[HEADER_LENGTH])
    head = json.loads(request.body[:split])
    assert [(each["name"], each["shape"]) for each in head["inputs"]] == [
        ("image", [1, 1, 2, 3]),
        ("flag", [1, 2]),
    ]
    assert [each["parameters"]["binary_data_size"] for each in head["inputs"]] == [24, 2]
    assert head["parameters"] == {"binary_data_output": True}
    assert request.body[split:] == image.tobytes() + flag


@given(st.binary(max_size=60).filter(lambda data: len(data) != 24))
def test_raw_of_another_size_is_named(payload: bytes) -> None:
    with pytest.raises(TensorError, match=rf"{len(payload)} bytes; one sample has 24: image FP32"):
        raw_request(payload, (IMAGE,))


def test_strings_have_no_size_and_travel_as_json() -> None:
    text = TensorSpec("text", "BYTES", (1,))
    with pytest.raises(TensorError, match="format json"):
        raw_request(b"hello", (text,))
    words = json.dumps(["x" * 100_000]).encode()
    assert json.loads(json_request(words, (text,)).body)["inputs"][0]["data"] == ["x" * 100_000]


@pytest.mark.parametrize(
    ("array", "shape", "data"),
    [
        ("[1,2,3,4,5,6]", [1, 1, 2, 3], [1, 2, 3, 4, 5, 6]),
        ("[[1,2,3],[4,5,6]]", [1, 1, 2, 3], [[[[1, 2, 3], [4, 5, 6]]]]),
        (" [[[[1,2,3],[4,5,6]]]]\n", [1, 1, 2, 3], [[[[1, 2, 3], [4, 5, 6]]]]),
        ("[[[[1,2,3],[4,5,6]]],[[[1,2,3],[4,5,6]]]]", [2, 1, 2, 3], [[[[1, 2, 3], [4, 5, 6]]]] * 2),
    ],
)
def test_an_array_is_the_one_input(array: str, shape: list[int], data: list[Any]) -> None:
    request = json_request(array.encode(), (IMAGE,))
    (entry,) = json.loads(request.body)["inputs"]
    assert entry == {"name": "image", "datatype": "FP32", "shape": shape, "data": data}


def test_an_array_is_not_for_a_model_with_two_inputs() -> None:
    with pytest.raises(TensorError, match="has 2"):
        json_request(b"[1]", (IMAGE, FLAG))


def test_a_request_passes_as_it_is() -> None:
    body = json.dumps({"id": "7", "inputs": [{"name": "image", "data": [1]}]}).encode()
    assert json_request(body, (IMAGE, FLAG)).body == body


@pytest.mark.parametrize("key", ["shared_memory_region", "binary_data_size", "binary_data_output"])
@pytest.mark.parametrize("where", ["request", "inputs", "outputs"])
def test_memory_of_others_and_binary_answers_are_refused(key: str, where: str) -> None:
    entry = {"parameters": {key: 1}}
    document = entry if where == "request" else {where: [{}, entry]}
    escaped = json.dumps(document).replace("_", "\\u005f")
    for text in (json.dumps(document), escaped):
        with pytest.raises(MessageError, match="over MQTT"):
            json_request(text.encode(), (IMAGE,))


@pytest.mark.parametrize("text", [b"", b"7", b'"x"', b"null", b"{", b"[1", b"\xff", b"[" * 200_000])
def test_what_is_neither_form_is_named(text: bytes) -> None:
    big = TensorSpec("image", "FP32", (1, 100_000))
    with pytest.raises(MessageError, match="payload"):
        json_request(text, (big,))


def test_json_much_larger_than_the_model_takes_is_not_parsed() -> None:
    with pytest.raises(TensorError, match="at most"):
        json_request(b"[" + b" " * 10_000 + b"]", (IMAGE,))


Values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(Values | st.fixed_dictionaries({"inputs": Values, "parameters": Values}))
def test_any_json_is_a_request_or_a_named_error(value: Any) -> None:
    try:
        request = json_request(json.dumps(value).encode(), (IMAGE,))
    except OverlaidError:
        return
    document = json.loads(request.body)
    if isinstance(value, dict):
        assert document == value
    else:  # nothing of the array can be anything but data
        assert set(document) == {"inputs"} and len(document["inputs"]) == 1
        assert set(document["inputs"][0]) == {"name", "datatype", "shape", "data"}


def test_metadata_is_read_and_what_is_none_is_named() -> None:
    text = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []}'
    assert parse_metadata(text.encode()) == (TensorSpec("x", "FP32", (-1, 4)),)
    for bad in (b"", b"[]", b'{"inputs": 3}', b'{"inputs": [{}]}', text.replace("-1", "0").encode()):
        with pytest.raises(MessageError, match="metadata"):
            parse_metadata(bad)


def test_a_raw_answer_is_what_follows_the_header() -> None:
    assert raw_answer(b"{}\1\2", {HEADER_LENGTH.lower(): "2"}) == b"\1\2"
    for length in ("", "x", "5", "-1"):
        with pytest.raises(MessageError, match=HEADER_LENGTH):
            raw_answer(b"{}\1\2", {HEADER_LENGTH.lower(): length})
