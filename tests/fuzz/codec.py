"""Valid requests, damaged: whatever comes in, an answer or a RequestError goes out.

``python -m tests.fuzz.codec --seconds 600 --seed 1`` runs as long as asked, in a bounded memory, and ends at the first
finding with what makes it again. Each round depends on its seed alone.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import random
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.devices.tensors import DTYPES, check_inputs, pack_strings
from agent.serving.http.messages import Head, RequestError, parse_head
from agent.serving.protocol.body import body_limit, body_memory, compressed, plain_body
from agent.serving.protocol.data import Array
from agent.serving.protocol.request import HEADER_LENGTH, Decoder
from agent.serving.protocol.response import encode
from agent.types import TensorSpec
from tests.fuzz.rounds import run_rounds

MOST = 1 << 20  # bytes of a body
REGION = 4096
SPECS = (
    TensorSpec("x", "FP32", (-1, 2)),
    TensorSpec("i", "INT64", (3,)),
    TensorSpec("s", "BYTES", (-1, 2)),
    TensorSpec("b", "BOOL", (2, 2)),
    TensorSpec("h", "FP16", ()),
    TensorSpec("u", "UINT8", (1, 2, 2)),
    TensorSpec("d", "FP64", (1,)),
)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, 1e400, float("nan"), -float("inf"), 1 << 31, 1 << 63, 1 << 64, -(1 << 63),
    10**400, "", "x", "1", "\ud800", "\0", ":", "a" * 3000, [], {}, [[]], [1], [-1], [1 << 31, 1 << 31], [0], [None],
    {"a": 1},
    [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],
)  # fmt: skip
PARAMETERS = (
    "binary_data_size", "binary_data", "binary_data_output", "classification", "timeout", "priority", "sequence_id",
    "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size",
)  # fmt: skip
TOKENS = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\u003a",
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"\0",
    b"\xff",
    b"-",
    b"[" * 2000,
)


class Shared:
    """One region of shared memory, "r"."""

    def __init__(self, data: bytes) -> None:
        self._data = bytearray(data.ljust(REGION, b"\0"))

    def read(self, name: str, offset: int, nbytes: int, /) -> memoryview:
        self._check(name, offset, nbytes)
        return memoryview(self._data)[offset : offset + nbytes]

    def write(self, name: str, offset: int, array: Array, /) -> None:
        self._check(name, offset, array.nbytes)
        self._data[offset : offset + array.nbytes] = array.tobytes()

    @staticmethod
    def _check(name: str, offset: int, nbytes: int) -> None:
        if name != "r" or offset + nbytes > REGION:
            raise RequestError(400, f"{nbytes} bytes from {offset} are not in {name[:64]!r}")


@dataclass(slots=True)
class Sent:
    """A request as it leaves its client."""

    document: dict[str, Any]
    data: bytes
    memory: bytes
    header_length: str | None = None
    encoding: str | None = None


def one_round(seed: int) -> str:
    """What became of the request of this seed: "200" or the status of its RequestError; any other exception is a
    finding."""
    rng = random.Random(seed)
    inputs, outputs = _some(rng), _some(rng)
    sent = _valid(rng, inputs, outputs)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        _damage_document(rng, sent.document)
    text = json.dumps(sent.document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if sent.data or rng.random() < 0.2:
        sent.header_length = str(len(text))
    body = text + sent.data
    for _ in range(rng.choice((0, 0, 1, 3))):
        body = _damage_bytes(rng, body)
    body = _pack(rng, sent, body)
    with contextlib.suppress(RequestError):
        parse_head(_damage_bytes(rng, _head_bytes(sent, body)))
    try:
        _serve(rng, sent, body, inputs, outputs)
    except RequestError as error:
        assert 0 < len(str(error)) < 2000, f"an error of {len(str(error))} characters"
        error.reply().head(True)
        return str(error.status)
    return "200"


def _serve(
    rng: random.Random, sent: Sent, body: bytes, inputs: list[TensorSpec], outputs: list[TensorSpec]
) -> None:
    headers = {"accept-encoding": rng.choice(("gzip", "deflate;q=0.5", "*", "x;q=y", ""))}
    if sent.header_length is not None:
        headers[HEADER_LENGTH.lower()] = sent.header_length
    if sent.encoding is not None:
        headers["content-encoding"] = sent.encoding
    head = Head("POST", "/v2/models/m/infer", headers, True, len(body))
    limit = body_limit(inputs, MOST)
    memory = body_memory(head, limit)
    memory[:] = body
    regions = Shared(sent.memory) if rng.random() < 0.9 else None
    decoder = Decoder(inputs, outputs)
    for _ in range(2):  # the second time it is remembered
        request = decoder.decode(plain_body(head, memory, limit), sent.header_length, regions)
        assert check_inputs(inputs, request.tensors) == request.batch
        assert all(tensor.flags.aligned for tensor in request.tensors.values())
    batch = min(request.batch, 100)
    results = {spec.name: _array(rng, spec, batch) for spec in outputs}
    compressed(head, encode("m", "1", request, results, regions)).head(True)


def _some(rng: random.Random) -> list[TensorSpec]:
    return rng.sample(SPECS, rng.randint(1, 4))


def _array(rng: random.Random, spec: TensorSpec, batch: int) -> Array:
    shape = spec.concrete(batch)
    size = int(np.prod(shape))
    array = np.empty(size, DTYPES[spec.dtype])
    if spec.dtype == "BYTES":
        array[:] = [
            rng.choice((b"", b"word", b"a:b", "é".encode(), b"\xff"[: rng.randint(0, 1)]))
            for _ in range(size)
        ]
    else:
        array[:] = [rng.randint(0, 1) for _ in range(size)]
    return array.reshape(shape)


def _valid(rng: random.Random, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Sent:
    sent = Sent({"inputs": [], "id": "é:1"}, b"", b"")
    batch = rng.choice((1, 1, 2, 5))
    for spec in inputs:
        array = _array(rng, spec, batch)
        entry: dict[str, Any] = {"name": spec.name, "datatype": spec.dtype, "shape": list(array.shape)}
        data = pack_strings(array) if spec.dtype == "BYTES" else array.tobytes()
        way = rng.choice(("json", "binary", "shared"))
        if way == "json":
            flat = array.reshape(-1).tolist()
            entry["data"] = [item.decode("latin-1") if isinstance(item, bytes) else item for item in flat]
        elif way == "binary":
            entry["parameters"] = {"binary_data_size": len(data)}
            sent.data += data
        else:
            entry["parameters"] = {
                "shared_memory_region": "r",
                "shared_memory_offset": len(sent.memory),
                "shared_memory_byte_size": len(data),
            }
            sent.memory += data
        sent.document["inputs"].append(entry)
    if rng.random() < 0.5:
        sent.document["outputs"] = [
            {"name": spec.name, "parameters": rng.choice(({}, {"binary_data": True}, {"classification": 2}))}
            for spec in rng.sample(outputs, rng.randint(0, len(outputs)))
        ]
    if rng.random() < 0.3:
        sent.document["parameters"] = {
            "timeout": rng.randint(0, 10**7),
            "priority": 1,
            "binary_data_output": True,
        }
    return sent


def _damage_document(rng: random.Random, document: dict[str, Any]) -> None:
    """Change, add or remove something at a place of the document."""
    value: Any = document
    while True:
        inner = [
            item
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not inner or rng.random() < 0.3:
            break
        value = rng.choice(inner)
    odd = copy.deepcopy(rng.choice(ODD))
    if isinstance(value, list):
        place = rng.randint(0, len(value))
        value[place : place + rng.randint(0, 1)] = [
            copy.deepcopy(odd) for _ in range(rng.choice((0, 1, 1, 1, 50)))
        ]
        return
    key = rng.choice((*value, "data", "parameters", "shape", "outputs", *PARAMETERS))
    if rng.random() < 0.2:
        value.pop(key, None)
    else:
        value[key] = {rng.choice(PARAMETERS): odd} if key == "parameters" and rng.random() < 0.8 else odd


def _damage_bytes(rng: random.Random, body: bytes) -> bytes:
    at, end = sorted((rng.randint(0, len(body)), rng.randint(0, len(body))))
    change: Callable[[], bytes] = rng.choice(
        (
            lambda: body[:at],
            lambda: body[:at] + body[end:],
            lambda: body[:end] + body[at:],
            lambda: body[:at] + rng.choice(TOKENS) + body[at:],
            lambda: body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :],
            lambda: body + rng.randbytes(rng.randint(1, 16)),
        )
    )
    return change()[:MOST]


def _pack(rng: random.Random, sent: Sent, body: bytes) -> bytes:
    """Compress some, and lie about some lengths."""
    if rng.random() < 0.1:
        sent.header_length = rng.choice(
            ("0", "-1", "1", "+5", "", "²", "9" * 25, str(len(body)), str(len(body) + 1))
        )
    if rng.random() < 0.2:
        sent.encoding = rng.choice(("gzip", "deflate", "br", "identity"))
        body = gzip.compress(body, 1) if sent.encoding == "gzip" else zlib.compress(body, 1)
        if rng.random() < 0.3:
            body = _damage_bytes(rng, body)
        elif rng.random() < 0.1:
            body = gzip.compress(bytes(8 * MOST), 1)
    return body


def _head_bytes(sent: Sent, body: bytes) -> bytes:
    return (
        f"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
        f"{HEADER_LENGTH}: {sent.header_length}\r\n\r\n"
    ).encode()


if __name__ == "__main__":
    sys.exit(run_rounds(__doc__, one_round))
