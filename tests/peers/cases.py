"""Requests of every kind, good and bad, for the models of ``served``."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Document = dict[str, Any]
HEADER_LENGTH = "Inference-Header-Content-Length"
ONES = np.array([0, 1, 2, 3], np.float32).tobytes()


@dataclass(frozen=True, slots=True)
class Case:
    """An HTTP request. ``only``: parts of a JSON answer to compare, None for all; ``keys``: compare keys, not values.

    ``chunked``: without a Content-Length.
    """

    name: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    only: tuple[str, ...] | None = None
    keys: bool = False
    chunked: bool = False


def pair(a: Document | None = None, b: Document | None = None, **request: Any) -> Document:
    """A good request for the model ``pair``, with changes to its inputs."""
    good = {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    inputs = [{"name": name, **good, **(change or {})} for name, change in (("a", a), ("b", b))]
    return {"inputs": inputs, **request}


def same(datatype: str, data: Any, **request: Any) -> Document:
    """A request for the model named after its datatype."""
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, 4], "data": data}], **request}


def infer(name: str, body: Document | bytes, model: str = "pair", **headers: str) -> Case:
    """Underscores in header names stand for hyphens."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(name, f"/v2/models/{model}/infer", data, named)


def binary(
    name: str,
    document: Document,
    *tensors: bytes,
    model: str = "pair",
    length: str | None = None,
    **headers: str,
) -> Case:
    """``tensors`` follow the document; ``length``: a wrong length of it."""
    text = json.dumps(document).encode()
    size = str(len(text)) if length is None else length
    return infer(name, text + b"".join(tensors), model, **{HEADER_LENGTH: size}, **headers)


def pair_binary(size: Any = 16, other: Any = 16, **request: Any) -> Document:
    """The header of a binary request for ``pair``."""
    document = pair(**request)
    for given, nbytes in zip(document["inputs"], (size, other), strict=True):
        del given["data"]
        given["parameters"] = {"binary_data_size": nbytes}
    return document


def same_binary(datatype: str, nbytes: int, shape: tuple[int, ...] = (1, 4), **request: Any) -> Document:
    parameters = {"binary_data_size": nbytes}
    given = {"name": "x", "datatype": datatype, "shape": shape, "parameters": parameters}
    return {"inputs": [given], **request}


def strings(*values: bytes) -> bytes:
    """BYTES elements in their binary form."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def get(path: str, **options: Any) -> Case:
    return Case(f"GET {path}", path, method="GET", **options)


def without(document: Document, key: str) -> Document:
    """The first input without a key."""
    del document["inputs"][0][key]
    return document


def outputs(*entries: Any) -> Document:
    return pair(outputs=list(entries))


def y(**parameters: Any) -> list[Document]:
    return [{"name": "y", "parameters": parameters}]


JSON = json.dumps(pair()).encode()
BINARY_OUT = {"binary_data_output": True}


def _endpoints() -> Iterable[Case]:
    yield get("/v2", keys=True)
    yield get("/v2/health/live")
    yield get("/v2/health/ready")
    for tail in ("", "/versions/1"):
        yield get(f"/v2/models/pair{tail}", only=("name", "versions", "inputs", "outputs"))
        yield get(f"/v2/models/pair{tail}/config", only=("name", "version_policy"))
        yield get(f"/v2/models/pair{tail}/stats", keys=True)
    yield get("/v2/models/bytes", only=("inputs", "outputs"))
    yield get("/v2/models/pair/ready")
    yield get("/v2/models/stats", keys=True)
    for unknown in ("nope", "pair/versions/2", "pair/versions/abc"):
        for tail in ("", "/config", "/ready", "/stats"):
            yield get(f"/v2/models/{unknown}{tail}")
    for path in (
        "/v2/",
        "/v2/models",
        "/v2/nope",
        "/v2/models/pair/nope",
        "/v2/models/pair/",
        "/v1/models/pair",
    ):
        yield get(path)
    yield get("/v2/models/pair?x=1", only=("name",))
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        yield Case(f"{method} infer", "/v2/models/pair/infer", method=method)
        yield Case(f"{method} model", "/v2/models/pair", method=method)
    yield Case("POST model", "/v2/models/pair")
    yield Case("POST live", "/v2/health/live")
    yield get("/v2/models/pair/infer")
    yield get("/v2/repository/index")
    for name, body in (("", b""), (" of ready", b'{"ready":true}'), (" with bad JSON", b"{")):
        yield Case(f"index{name}", "/v2/repository/index", body)
    for action in ("load", "unload"):
        yield Case(action, f"/v2/repository/models/pair/{action}", b"{}")


def _json() -> Iterable[Case]:
    yield infer("JSON", JSON)
    for name, value in (
        ("an id", "x7"),
        ("an empty id", ""),
        ("a number as id", 7),
        ("a long id", "a" * 5000),
    ):
        yield infer(name, pair(id=value))
    yield Case("a version", "/v2/models/pair/versions/1/infer", JSON)
    yield Case("an unknown version", "/v2/models/pair/versions/2/infer", JSON)
    yield infer("an unknown model", JSON, model="nope")
    yield infer("an unknown key", pair(extra=1))
    yield infer("two samples", pair(*2 * [{"shape": [2, 4], "data": [1] * 8}]))
    yield infer("one output", outputs({"name": "sum"}))
    yield infer("outputs in another order", outputs({"name": "difference"}, {"name": "sum"}))
    yield infer("an output twice", outputs({"name": "sum"}, {"name": "sum"}))
    yield infer("an unknown output", outputs({"name": "nope"}))
    yield infer("an output without name", outputs({}))
    yield infer("no outputs", outputs())
    yield infer("outputs that are no list", pair(outputs={}))
    yield infer("an input missing", {"inputs": pair()["inputs"][:1]})
    yield infer("an input twice", {"inputs": [*pair()["inputs"], pair()["inputs"][0]]})
    yield infer("an unknown input", {"inputs": [*pair()["inputs"], {**pair()["inputs"][0], "name": "c"}]})
    yield infer("an empty list of inputs", {"inputs": []})
    yield infer("no inputs", {})
    yield infer("inputs that are no list", {"inputs": {}})
    yield infer("inputs that are strings", {"inputs": ["a"]})
    yield infer("no body", b"")
    for name, body in (
        ("bad JSON", b"{"),
        ("a list", b"[]"),
        ("null", b"null"),
        ("JSON and more", JSON + b"x"),
    ):
        yield infer(name, body)
    yield infer("a key twice", b'{"id":"a",' + JSON[1:-1] + b',"id":"b"}')
    yield infer("JSON 3000 levels deep", b'{"inputs":' + b"[" * 3000 + b"]" * 3000 + b"}")
    yield infer("no UTF-8", b'{"id":"\xff","inputs":[]}')
    for name, value in (("wrong", "INT32"), ("unknown", "FLOAT"), ("lower-case", "fp32"), ("numeric", 3)):
        yield infer(f"a {name} datatype", pair({"datatype": value}))
    for key in ("name", "datatype", "shape", "data"):
        yield infer(f"no {key}", without(pair(), key))
    for text, shape in (
        ("of another rank", [4]), ("of another size", [1, 5]), ("longer", [1, 1, 4]), ("empty", []),
        ("negative", [-1, 4]), ("twice negative", [-1, -4]), ("zero", [0, 4]), ("beyond 64 bits", [1 << 64, 4]),
        ("of floats", [1.5, 4]), ("of strings", ["1", 4]), ("of booleans", [True, 4]), ("that is a number", 4),
    ):  # fmt: skip
        yield infer(f"a shape {text}", pair({"shape": shape}))
    for text, data in (
        ("too short", [1, 2, 3]), ("too long", [1, 2, 3, 4, 5]), ("nested", [[1, 2, 3, 4]]),
        ("nested otherwise", [[1, 2], [3, 4]]), ("ragged", [[1, 2, 3], [4]]), ("of strings", ["1", "2", "3", "4"]),
        ("of booleans", [True, False, True, False]), ("of nulls", [None, 1, 2, 3]), ("null", None), ("an object", {}),
        ("of NaN and Infinity", [float("nan"), float("inf"), -float("inf"), 1]), ("beyond FP32", [1e39, 1, 2, 3]),
        ("of huge integers", [2**70, 1, 2, 3]), ("of exponents", [1e-7, 1e22, 0.1, -0.0]),
    ):  # fmt: skip
        yield infer(f"data {text}", pair({"data": data}))
    yield infer("data beyond FP64", JSON.replace(b"[1, 2, 3, 4]", b"[1e400, 1, 2, 3]"))
    yield infer("different batches", pair({"shape": [2, 4], "data": [1] * 8}))


def _parameters() -> Iterable[Case]:
    for name, parameters in (
        ("no object", 3), ("unknown", {"x": 1}), ("of objects", {"x": {"y": 1}}), ("null", {"x": None}),
        ("reserved", {"triton_x": 1}), ("timeout", {"timeout": 5_000_000}), ("timeout as text", {"timeout": "1"}),
        ("negative timeout", {"timeout": -1}), ("fractional timeout", {"timeout": 1.5}), ("priority", {"priority": 1}),
        ("negative priority", {"priority": -1}), ("sequence", {"sequence_id": 1, "sequence_start": True}),
        ("binary output", BINARY_OUT), ("binary output by number", {"binary_data_output": 1}),
    ):  # fmt: skip
        yield infer(f"parameters: {name}", pair(parameters=parameters))
    yield infer("an input's parameters that are no object", pair({"parameters": []}))
    yield infer("one binary output", outputs({"name": "sum", "parameters": {"binary_data": True}}))
    mixed = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference"}]
    yield infer("a binary output and one in JSON", outputs(*mixed))
    yield infer("binary_data by number", outputs({"name": "sum", "parameters": {"binary_data": 1}}))
    yield infer("binary output but for one", pair(parameters=BINARY_OUT, outputs=[
        {"name": "sum", "parameters": {"binary_data": False}}]))  # fmt: skip
    yield infer("binary output of a named one", pair(parameters=BINARY_OUT, outputs=[{"name": "sum"}]))
    for classes in (0, 1, 2, 9, -1, "2", 1.5):
        wanted = {"name": "sum", "parameters": {"classification": classes}}
        yield infer(f"classification {classes!r}", pair({"data": [4, 1, 9, 9]}, outputs=[wanted]))
    both = {"name": "sum", "parameters": {"classification": 2, "binary_data": True}}
    yield infer("classification in binary", outputs(both))
    samples = pair(*2 * [{"shape": [2, 4], "data": [1, 2, 3, 4, 8, 7, 6, 5]}])
    yield infer("classification of two samples", {**samples, "outputs": [both]})
    for datatype, data in (
        ("INT64", [3, -1, 7, 7]), ("FP64", [0.1, 0.2, 1e20, 0.2]), ("UINT8", [1, 2, 3, 3]), ("BOOL", [True] * 4),
    ):  # fmt: skip
        document = same(datatype, data, outputs=y(classification=3))
        yield infer(f"classification of {datatype}", document, model=datatype.lower())
    odd = np.array([1, np.nan, 3, np.inf], np.float32).tobytes()
    document = same_binary("FP32", 16, outputs=y(classification=4))
    yield binary("classification of NaN and Infinity", document, odd, model="fp32")


def _binary() -> Iterable[Case]:
    yield binary("binary", pair_binary(), ONES, ONES)
    yield binary("binary both ways", pair_binary(parameters=BINARY_OUT), ONES, ONES)
    half = pair_binary()
    half["inputs"][1] = pair()["inputs"][1]
    yield binary("one input binary, one in JSON", half, ONES)
    yield binary(
        "data twice", {"inputs": [{**pair()["inputs"][0], **half["inputs"][0]}, half["inputs"][1]]}, ONES
    )
    for name, sizes in (
        ("short of the tensor", (16, 12)), ("beyond the body", (16, 20)), ("shifted", (12, 20)), ("zero", (0, 32)),
        ("negative", (-1, 16)), ("text", ("16", 16)), ("fractional", (16.5, 16)), ("huge", (1 << 63, 16)),
    ):  # fmt: skip
        yield binary(f"a binary size {name}", pair_binary(*sizes), ONES, ONES)
    yield binary("bytes behind the last tensor", pair_binary(), ONES, ONES, b"\0" * 8)
    yield binary("a truncated tensor", pair_binary(), ONES, ONES[:-1])
    yield infer("binary without the header's length", json.dumps(pair_binary()).encode() + ONES + ONES)
    for name, length in (
        ("negative", "-1"), ("beyond the body", "99999"), ("a word", "abc"), ("short", "10"), ("0", "0"),
        ("empty", ""), ("huge", "9" * 30), ("a number and more", f"{len(json.dumps(pair_binary()))}x"),
    ):  # fmt: skip
        yield binary(f"a header length that is {name}", pair_binary(), ONES, ONES, length=length)
    yield binary("a header length of all", pair())
    yield infer("a raw tensor", ONES, model="fp32", **{HEADER_LENGTH: "0"})
    yield infer("a raw tensor of another size", ONES[:-1], model="fp32", **{HEADER_LENGTH: "0"})


def _datatypes() -> Iterable[Case]:
    for datatype, data in (
        ("BOOL", [True, False, True, True]), ("UINT8", [0, 255, 1, 2]), ("UINT64", [0, 2**64 - 1, 1, 2]),
        ("INT8", [-128, 127, 0, 1]), ("INT64", [-(2**63), 2**63 - 1, 0, 1]), ("FP16", [1.5, 65504, -2, 0.1]),
        ("FP32", [1.5, 3.4e38, 0.1, -0.0]), ("FP64", [0.1, 1 / 3, 1e308, 5e-324]), ("BYTES", ["a", "é", "", "x\0y"]),
    ):  # fmt: skip
        yield infer(f"{datatype} in JSON", same(datatype, data), model=datatype.lower())
        document = same(datatype, data, outputs=y(binary_data=True))
        yield infer(f"{datatype} from JSON to binary", document, model=datatype.lower())
    for datatype, over, under in (
        ("UINT8", 256, -1),
        ("INT8", 128, -129),
        ("UINT64", 2**64, -1),
        ("INT64", 2**63, 0.5),
    ):
        for value in (over, under, True, 1.5):
            yield infer(f"{value} as {datatype}", same(datatype, [value, 0, 0, 0]), model=datatype.lower())
    yield infer("numbers as BOOL", same("BOOL", [1, 0, 1, 0]), model="bool")
    yield infer("numbers as BYTES", same("BYTES", [1, 2, 3, 4]), model="bytes")
    yield infer("integers as FP64", same("FP64", [1, 2, 3, 4]), model="fp64")
    yield infer("BF16 in JSON", same("BF16", [1, 2, 3, 4]), model="fp32")
    yield binary("BF16", same_binary("BF16", 8), bytes(8), model="fp32")
    yield binary("BOOL", same_binary("BOOL", 4), bytes([0, 1, 2, 255]), model="bool")
    half = np.array([0.1, 1, -2, 65504], np.float16).tobytes()
    yield binary("FP16", same_binary("FP16", 8, outputs=y(binary_data=True)), half, model="fp16")
    yield binary("FP16 from binary to JSON", same_binary("FP16", 8), half, model="fp16")
    odd = np.array([np.nan, np.inf, -np.inf, 1e-45], np.float32).tobytes()
    yield binary("NaN and Infinity from binary to JSON", same_binary("FP32", 16), odd, model="fp32")


def _strings() -> Iterable[Case]:
    good = strings(b"a", b"bc", b"", "é".encode())
    for name, data, wanted in (
        ("BYTES", good, True), ("BYTES from binary to JSON", good, False),
        ("BYTES of too few strings", strings(b"a", b"b", b"c"), False),
        ("BYTES of too many strings", strings(b"a", b"b", b"c", b"d", b"e"), False),
        ("BYTES with a length beyond the data", strings(b"a", b"b", b"c") + b"\xff\0\0\0d", False),
        ("BYTES with half a length", strings(b"a", b"b", b"c") + b"\1\0", False),
        ("BYTES with a length of 32 ones", strings(b"a", b"b", b"c") + b"\xff" * 4, False),
        ("BYTES that are no UTF-8", strings(b"\xff\xfe", b"b", b"c", b"d"), False),
    ):  # fmt: skip
        document = same_binary("BYTES", len(data), outputs=y(binary_data=wanted))
        yield binary(name, document, data, model="bytes")
    yield infer("nested BYTES", same("BYTES", [["a", "b", "c", "d"]]), model="bytes")
    yield infer("one string of four", same("BYTES", ["a"]), model="bytes")


def _coding() -> Iterable[Case]:
    for kind in ("text/plain", "application/octet-stream", "image/png", "application/json; charset=utf-8"):
        yield infer(f"Content-Type {kind}", JSON, Content_Type=kind)
    raw = zlib.compressobj(wbits=-15)
    packed = gzip.compress(JSON)
    for name, body, coding in (
        ("gzip", packed, "gzip"), ("deflate", zlib.compress(JSON), "deflate"), ("identity", JSON, "identity"),
        ("deflate without zlib's header", raw.compress(JSON) + raw.flush(), "deflate"), ("br", JSON, "br"),
        ("gzip that is none", JSON, "gzip"), ("gzip without its end", packed[:-9], "gzip"), ("GZIP", packed, "GZIP"),
        ("two codings", packed, "gzip, deflate"),
    ):  # fmt: skip
        yield infer(f"coded: {name}", body, Content_Encoding=coding)
    text = json.dumps(pair_binary()).encode()
    coded = {HEADER_LENGTH: str(len(text)), "Content-Encoding": "gzip"}
    yield infer("coded: gzip, binary tensors", gzip.compress(text + ONES + ONES), **coded)
    data = np.linspace(0, 1, 16000, dtype=np.float32).tobytes()
    many = same_binary("FP32", len(data), (4000, 4))
    for accepted in ("gzip", "deflate", "br", "gzip;q=0", "*", "deflate, gzip", "gzip;q=0.5, deflate;q=1.0"):
        yield binary(f"Accept-Encoding {accepted}", many, data, model="fp32", Accept_Encoding=accepted)
    many = {**many, "parameters": BINARY_OUT}
    yield binary("Accept-Encoding gzip, binary", many, data, model="fp32", Accept_Encoding="gzip")
    yield infer("Accept-Encoding gzip, a short answer", JSON, Accept_Encoding="gzip")
    yield infer("Accept-Encoding gzip, an error", b"{", Accept_Encoding="gzip")
    yield replace(infer("a chunked body", JSON), chunked=True)


def _shared_memory() -> Iterable[Case]:
    base = "/v2/systemsharedmemory"
    yield get(f"{base}/status")
    yield get(f"{base}/region/nope/status")
    yield Case("unregister an unknown region", f"{base}/region/nope/unregister")
    yield Case("unregister all", f"{base}/unregister")
    yield get(f"{base}/region/nope/register")
    for name, body in (
        ("without a key", {"byte_size": 64}), ("without a size", {"key": "/nope"}),
        ("that is not there", {"key": "/nope", "byte_size": 64}),
        ("with a negative offset", {"key": "/nope", "offset": -1, "byte_size": 64}),
        ("with a size as text", {"key": "/nope", "byte_size": "64"}),
    ):  # fmt: skip
        yield Case(f"register a region {name}", f"{base}/region/nope/register", json.dumps(body).encode())
    yield Case("register with bad JSON", f"{base}/region/nope/register", b"{")
    region = {"shared_memory_region": "nope", "shared_memory_byte_size": 16}
    yield infer("an input in an unknown region", without(pair({"parameters": region}), "data"))
    yield infer("an output in an unknown region", outputs({"name": "sum", "parameters": region}))
    yield infer("data and a region", pair({"parameters": region}))


CASES = tuple(
    case
    for group in (_endpoints, _json, _parameters, _binary, _datatypes, _strings, _coding, _shared_memory)
    for case in group()
)
