"""Bodies: where they are put, compressed requests, and answers compressed where that is worth it."""

from __future__ import annotations

import gzip
import json
import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.http.messages import Head, Reply, RequestError
from agent.serving.protocol.body import (
    ALIGNMENT,
    CHUNK,
    COMPRESS_FROM,
    body_limit,
    body_memory,
    compressed,
    plain_body,
    preferred,
)
from agent.serving.protocol.request import Decoder
from agent.types import TensorSpec
from tests.unit.serving.requests import make_request

LIMIT = 1 << 20
X = TensorSpec("x", "FP64", (-1,))


def head(length: int | None = 0, **headers: str) -> Head:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head("POST", "/v2/models/m/infer", named, True, length)


def compress(data: bytes, encoding: str) -> bytes:
    return gzip.compress(data) if encoding == "gzip" else zlib.compress(data)


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("extra", range(9))
def test_the_first_binary_tensor_is_aligned_and_not_copied(encoding: str | None, extra: int) -> None:
    array = np.arange(1000, dtype=np.float64)
    body, length, _ = make_request({"x": array}, {"x": "binary"}, extra="x" * extra)
    assert length is not None
    sent = compress(body, encoding) if encoding else body
    given = {"inference_header_content_length": length} | ({"content_encoding": encoding} if encoding else {})
    asked = head(len(sent), **given)
    memory = body_memory(asked, LIMIT)
    assert len(memory) == len(sent)
    memory[:] = sent
    plain = plain_body(asked, memory, LIMIT)
    assert (plain is memory) == (encoding is None)
    got = Decoder([X], [X]).decode(plain, length).tensors["x"]
    np.testing.assert_array_equal(got, array)
    assert np.shares_memory(got, np.frombuffer(plain, np.uint8))
    assert got.__array_interface__["data"][0] % ALIGNMENT == 0


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "", "²"])
def test_a_length_that_is_none_is_left_to_the_decoder(length: str) -> None:
    assert len(body_memory(head(5, inference_header_content_length=length), LIMIT)) == 5


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (head(None), 411),
        (head(LIMIT + 1), 413),
        (head(1, content_type="text/plain"), 415),
        (head(1, content_encoding="br"), 415),
        (head(1, content_encoding="gzip, gzip"), 415),
    ],
)
def test_bodies_that_are_not_read(asked: Head, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        body_memory(asked, LIMIT)
    assert caught.value.status == status
    assert ("gzip" in caught.value.headers.get("Accept-Encoding", "")) == (
        "content-encoding" in asked.headers
    )


@given(st.binary(max_size=500), st.sampled_from(["gzip", "deflate", "GZIP", "x-gzip"]), st.integers(0, 3))
def test_compressed_bodies_come_out_as_they_went_in(data: bytes, encoding: str, times: int) -> None:
    data *= 1 << 4 * times
    packed = gzip.compress(data) if "gzip" in encoding.lower() else zlib.compress(data)
    assert plain_body(head(content_encoding=encoding), memoryview(packed), LIMIT) == data


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("dense", [False, True])
def test_compressed_bodies_of_several_pieces(size: int, dense: bool) -> None:
    data = random.Random(7).randbytes(size) if dense else bytes(size)
    packed = memoryview(gzip.compress(data, 1))
    assert plain_body(head(content_encoding="gzip"), packed, size) == data
    with pytest.raises(RequestError) as caught:
        plain_body(head(content_encoding="gzip"), packed, size - 1)
    assert caught.value.status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_not_inflated_beyond_the_limit(encoding: str) -> None:
    bomb = memoryview(compress(bytes(64 << 20), encoding))
    with pytest.raises(RequestError) as caught:
        plain_body(head(content_encoding=encoding), bomb, LIMIT)
    assert caught.value.status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_damaged_compressed_bodies(encoding: str) -> None:
    good = compress(b"data" * 100, encoding)
    other = compress(b"data", "deflate" if encoding == "gzip" else "gzip")
    for body in (b"", b"{}", other, good[:-1], good[: len(good) // 2], good + b"x", good + good):
        with pytest.raises(RequestError) as caught:
            plain_body(head(content_encoding=encoding), memoryview(body), LIMIT)
        assert caught.value.status == 400 and encoding in str(caught.value)


def test_a_models_inputs_bound_its_bodies() -> None:
    fixed = TensorSpec("a", "FP32", (1, 1000))
    assert body_limit([fixed], 64 << 20) == (1 << 20) + 64 * 1000
    assert body_limit([fixed], 1 << 16) == 1 << 16
    for free in (TensorSpec("a", "FP32", (-1,)), TensorSpec("s", "BYTES", (1,))):
        assert body_limit([fixed, free], 64 << 20) == 64 << 20


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate;q=0.9, gzip;q=0.5", "deflate"),
        ("DEFLATE ; Q=1", "deflate"),
        ("gzip;q=0", None),
        ("*", "gzip"),
        ("*;q=0.5, gzip;q=0", "deflate"),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0, gzip;q=0.001", "gzip"),
        ("br, zstd", None),
        ("gzip;q=much", None),
        ("gzip;q=nan", None),
        ("gzip;q=2", None),
        ("", None),
        (",,;", None),
    ],
)
def test_the_coding_that_a_client_prefers(accept: str, coding: str | None) -> None:
    assert preferred(accept) == coding


def test_long_json_is_compressed_when_it_may_be() -> None:
    text = json.dumps(list(range(20_000))).encode()
    reply = Reply(200, (text,), headers={"X-Other": "1"})
    for encoding, undo in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        packed = compressed(head(accept_encoding=encoding), reply)
        assert packed.headers == {"X-Other": "1", "Content-Encoding": encoding}
        assert undo(b"".join(map(bytes, packed.parts))) == text and len(packed.parts[0]) < len(text) / 2
    assert compressed(head(), reply) is reply


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, (b"x" * (COMPRESS_FROM - 1),)),
        Reply(200, (b"{}", b"x" * COMPRESS_FROM), "application/octet-stream"),
        Reply(200),
    ],
)
def test_what_is_short_or_binary_is_sent_as_it_is(reply: Reply) -> None:
    assert compressed(head(accept_encoding="gzip"), reply) is reply
