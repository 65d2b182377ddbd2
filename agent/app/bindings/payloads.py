"""MQTT payloads as inference requests of the Open Inference Protocol, and its answers as MQTT payloads. Pure.

``raw``: the bytes of the model's inputs, and of its outputs, one after another in the order of the model's metadata;
little-endian, C order, one sample a message. ``json``: a request of the protocol or, for a model with one input, just
its array, nested or flat; answers are the protocol's. Tensors are never decoded here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import MessageError, TensorError
from agent.types import TensorSpec

HEADER_LENGTH = "Inference-Header-Content-Length"
JSON_ENVELOPE_BYTES = 4096
JSON_ELEMENT_BYTES = 32  # the longest float with its sign, comma and blanks
# A publisher on the bus may neither name memory of programs on this node nor turn the answer into something else.
FOREIGN = ("shared_memory", "binary_data")


@dataclass(frozen=True, slots=True)
class Request:
    """Body and headers of POST .../infer."""

    body: bytes
    headers: Mapping[str, str]


def parse_metadata(data: bytes) -> tuple[TensorSpec, ...]:
    """The inputs of a model from its worker's metadata; MessageError when they are not to be understood."""
    try:
        entries = json.loads(data)["inputs"]
        return tuple(TensorSpec(each["name"], each["datatype"], tuple(each["shape"])) for each in entries)
    except (ValueError, KeyError, TypeError) as error:
        raise MessageError(f"the worker's metadata is of no known form: {error}") from error


def raw_request(payload: bytes, inputs: Sequence[TensorSpec]) -> Request:
    """Raises TensorError when the payload is not exactly one sample of the inputs, or these have no fixed size."""
    unsized = [spec.name for spec in inputs if spec.dtype == "BYTES"]
    if unsized:
        raise TensorError(f"inputs {unsized} have no fixed size; bind the model with format json")
    sizes = [spec.nbytes() for spec in inputs]
    if len(payload) != sum(sizes):
        raise TensorError(f"{len(payload)} bytes; one sample has {sum(sizes)}: {_described(inputs)}")
    entries = [
        {**_tensor(spec), "parameters": {"binary_data_size": size}}
        for spec, size in zip(inputs, sizes, strict=True)
    ]
    head = _dump({"inputs": entries, "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return Request(head + payload, headers)


def json_request(payload: bytes, inputs: Sequence[TensorSpec]) -> Request:
    """Raises MessageError when the payload is not JSON of one of the two forms, TensorError when it cannot fit."""
    room = JSON_ENVELOPE_BYTES + JSON_ELEMENT_BYTES * sum(math.prod(spec.concrete()) for spec in inputs)
    if all(spec.dtype != "BYTES" for spec in inputs) and len(payload) > room:
        raise TensorError(f"{len(payload)} bytes; JSON for this model has at most {room}")
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"the payload is not JSON: {str(error)[:120]}") from error
    headers = {"Content-Type": "application/json"}
    if isinstance(value, dict):
        for parameters in _parameters(value):
            for key in parameters:
                if str(key).startswith(FOREIGN):
                    raise MessageError(f"parameter {str(key)[:64]!r} cannot be used over MQTT")
        return Request(payload, headers)
    if not isinstance(value, list):
        raise MessageError("the payload is neither an inference request (a JSON object) nor an array")
    if len(inputs) != 1:
        raise TensorError(f"an array is one input, this model has {len(inputs)}: {_described(inputs)}")
    return Request(_wrap(payload, _lengths(value), inputs[0]), headers)


def raw_answer(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The outputs' bytes of a binary answer; MessageError when it is none."""
    length = headers.get(HEADER_LENGTH.lower(), "")
    if not (length.isascii() and length.isdigit() and int(length) <= len(body)):
        raise MessageError(f"the worker's answer has {HEADER_LENGTH} {length[:20]!r}")
    return body[int(length) :]


def _wrap(payload: bytes, lengths: Sequence[int], spec: TensorSpec) -> bytes:
    """The request for an array that is a valid JSON text; whether its numbers fit is for the worker to say."""
    shape = spec.concrete()
    missing = 0
    if len(lengths) == len(shape):
        shape = tuple(lengths)
    elif len(lengths) > 1:  # without leading dimensions, of which there is one each
        missing = max(0, len(shape) - len(lengths))
        shape = (*(1,) * missing, *lengths)
    data = b"[" * missing + payload + b"]" * missing
    entry = _dump({**_tensor(spec), "shape": list(shape)})
    return b'{"inputs":[' + entry[:-1] + b',"data":' + data + b"}]}"


def _lengths(value: Any) -> list[int]:
    lengths: list[int] = []
    while isinstance(value, list) and len(lengths) <= 8:
        lengths.append(len(value))
        value = value[0] if value else None
    return lengths


def _parameters(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every object of parameters in a request; what has another form the worker refuses."""
    entries: list[Any] = [document]
    for key in ("inputs", "outputs"):
        found = document.get(key)
        entries += found if isinstance(found, list) else []
    for entry in entries:
        parameters = entry.get("parameters") if isinstance(entry, dict) else None
        if isinstance(parameters, dict):
            yield parameters


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.concrete())}


def _described(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.concrete())}" for spec in inputs)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
