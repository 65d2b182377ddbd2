"""What the client sends is what the service's codec reads, and what that answers is what the client gives."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.client.answers import Answer, Receiver, Results
from agent.serving.client.errors import BadRequest, InferenceFailed
from agent.serving.client.requests import InferRequests, Request
from agent.serving.http.messages import parse_head
from agent.serving.protocol.data import Array
from agent.serving.protocol.header import RegionSlice, Wanted
from agent.serving.protocol.request import HEADER_LENGTH, Decoder, InferRequest
from agent.serving.protocol.response import encode
from tests.unit.serving.requests import Memory, specs, tensors


def read(made: Request, given_specs: Any, memory: Any = None) -> InferRequest:
    data = b"".join(memoryview(part).cast("B") for part in made.parts)
    assert len(data) == made.size
    end = data.index(b"\r\n\r\n") + 4
    head = parse_head(data[:end])
    assert head.path == "/v2/models/a%20b/infer" and head.content_length == len(data) - end
    return Decoder(given_specs, given_specs).decode(
        memoryview(data)[end:], head.headers[HEADER_LENGTH.lower()], memory
    )


def same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        if one[name].dtype.kind != "O"
        else np.array_equal(one[name], other[name])
        for name in one
    )


@given(st.lists(tensors(), min_size=1, max_size=3), st.none() | st.integers(1, 10**9), st.integers(0, 9))
def test_requests_are_read_as_they_were_meant(
    calls: list[dict[str, Array]], timeout_us: int | None, priority: int
) -> None:
    requests = InferRequests(lambda _: None)
    for values in calls:
        for _ in range(2):  # the second time with a head that is known
            timeout_s = None if timeout_us is None else timeout_us / 1e6
            request = read(requests.make("a b", values, None, timeout_s, priority), specs(values))
            assert same(dict(request.tensors), values)
            assert request.priority == priority and request.timeout_s == pytest.approx(timeout_s, abs=2e-6)
            assert {wanted.name for wanted in request.outputs} == values.keys()
            assert all(wanted.binary for wanted in request.outputs)


@given(tensors(), st.randoms(use_true_random=False))
def test_layouts_and_byte_orders_do_not_matter(values: dict[str, Array], random: Any) -> None:
    bent = {
        name: random.choice([array, np.array(array, order="F"), array.astype(array.dtype.newbyteorder(">"))])
        for name, array in values.items()
    }
    request = read(InferRequests(lambda _: None).make("a b", bent, list(values), None, 0), specs(values))
    assert same(dict(request.tensors), values)


@given(st.lists(tensors(), min_size=1, max_size=3), st.integers(1, 5000), st.integers(0, 40_000))
def test_answers_are_given_as_they_were_meant(
    answers: list[dict[str, Array]], piece: int, length: int
) -> None:
    receiver, results = Receiver(), Results()
    for values in answers:
        outputs = {**values, "long": np.arange(length, dtype=np.float32)}
        request = InferRequest(None, {}, tuple(Wanted(name, binary=True) for name in outputs))
        reply = encode("m", "1", request, outputs)
        data = b"".join([reply.head(True), *(bytes(part) for part in reply.parts)])
        answer = feed(receiver, data, max(piece, len(data) // 50))
        assert same(results.arrays(answer, None), outputs)


def feed(receiver: Receiver, data: bytes, piece: int) -> Answer:
    receiver.expect()
    at = 0
    while True:
        buffer = receiver.buffer()
        part = data[at : at + min(piece, len(buffer))]
        assert part
        buffer[: len(part)] = part
        at += len(part)
        answer = receiver.received(len(part))
        if answer is not None:
            assert at == len(data)
            return answer


@given(st.binary(max_size=300))
def test_other_answers_are_named(body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nInference-Header-Content-Length: {len(body)}\r\n\r\n"
    answer = feed(Receiver(), head.encode() + body, 1000)
    with pytest.raises(InferenceFailed):
        Results().arrays(answer, None)


@given(st.lists(st.binary(max_size=20), min_size=1), st.data())
def test_what_is_unsent_is_the_rest(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    sent = data.draw(st.integers(0, len(whole)))
    assert b"".join(Request(list(parts), len(whole)).unsent(sent)) == whole[sent:]


def test_arrays_in_shared_memory_are_named_not_sent() -> None:
    x, y = np.arange(8, dtype=np.float32).reshape(2, 4), np.zeros((2, 4), np.float32)
    places = {id(x): ("r", 16), id(y): ("r", 64)}
    requests = InferRequests(lambda value: places.get(id(value)))
    made = requests.make("a b", {"x": x}, {"x": y}, None, 0)
    request = read(made, specs({"x": x}), Memory(r=bytes(16) + x.tobytes()))
    assert len(made.parts) == 1 and np.array_equal(request.tensors["x"], x)
    assert request.outputs[0].region == RegionSlice("r", 64, 32)
    with pytest.raises(BadRequest, match=r"Client.shared\(\)"):
        requests.make("a b", {"x": x}, {"x": y.copy()}, None, 0)


def in_memory(shape: list[int], datatype: str = "FP32") -> Answer:
    """The answer to a request whose output went into shared memory."""
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
    entry = {"name": "y", "datatype": datatype, "shape": shape, "parameters": place}
    text = json.dumps({"outputs": [entry]}).encode()
    return feed(Receiver(), f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text, 1000)


@pytest.mark.parametrize("shape", [[4], [1, 4], [2, 2]])
def test_an_output_in_shared_memory_is_the_array_that_was_given(shape: list[int]) -> None:
    given = np.zeros((1, 4), np.float32)
    assert Results().arrays(in_memory(shape), {"y": given})["y"] is given


@pytest.mark.parametrize("given", [np.zeros(4, np.int32), np.zeros(4, ">f4"), np.zeros(8, np.float32)])
def test_an_array_that_does_not_fit_its_output_is_no_answer(given: Array) -> None:
    with pytest.raises(BadRequest, match=r"'y' is FP32 \[1, 4\]"):
        Results().arrays(in_memory([1, 4]), {"y": given})


@pytest.mark.parametrize("value", [[[1, 2], [3]], {"a": [1, [2]]}["a"]])
def test_what_is_no_array_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest, match="input 'x'"):
        InferRequests(lambda _: None).make("m", {"x": value}, None, None, 0)


@pytest.mark.parametrize("name", ["\ud800", 7])
def test_names_that_are_no_text_are_refused(name: Any) -> None:
    with pytest.raises(BadRequest, match="model"):
        InferRequests(lambda _: None).make(name, {}, None, None, 0)
