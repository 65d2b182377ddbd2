"""Inference responses of the Open Inference Protocol V2, with Triton's extensions: see ``request``."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

import numpy as np

from agent.devices.tensors import NAMES
from agent.serving.http.messages import Reply, RequestError
from agent.serving.protocol.data import Array, to_binary, to_json
from agent.serving.protocol.header import Wanted
from agent.serving.protocol.request import HEADER_LENGTH, InferRequest, Regions

MAX_CLASSIFIED = 1_000_000  # elements of an output that is asked for as classes


def encode(
    model: str,
    version: str,
    request: InferRequest,
    results: Mapping[str, Array],
    regions: Regions | None = None,
) -> Reply:
    """The response: JSON, followed by the outputs that were asked for as binary.

    Raises RequestError 400 when an output cannot be given as it was asked for, and what ``regions`` raises.
    """
    entries: list[bytes] = []
    parts: list[memoryview] = []
    for wanted in request.outputs:
        array = np.asarray(results[wanted.name])
        if wanted.classes:
            array = _classes(wanted, array)
        if wanted.region is not None:
            data = b',"parameters":' + _share(wanted, array, regions)
        elif wanted.binary:
            binary = to_binary(array)
            data = b',"parameters":{"binary_data_size":%d}' % binary.nbytes
            parts.append(binary.data)
        else:
            data = b',"data":' + to_json(wanted.name, array)
        entries.append(_opening(wanted.name, array) + data + b"}")
    identity = b"" if request.id is None else b',"id":' + json.dumps(request.id).encode()
    head = b'{%s%s,"outputs":[%s]}' % (_model(model, version), identity, b",".join(entries))
    if not parts:
        return Reply(200, (head,))
    return Reply(200, (head, *parts), "application/octet-stream", {HEADER_LENGTH: str(len(head))})


@functools.lru_cache(4)
def _model(model: str, version: str) -> bytes:
    return f'"model_name":{json.dumps(model)},"model_version":{json.dumps(version)}'.encode()


def _opening(name: str, array: Array) -> bytes:
    return (
        f'{{"name":{json.dumps(name)},"datatype":"{NAMES[array.dtype]}","shape":{list(array.shape)}'.encode()
    )


def _share(wanted: Wanted, array: Array, regions: Regions | None) -> bytes:
    """Write an output where its client wants it; where that is, as JSON."""
    region, data = wanted.region, to_binary(array)
    assert region is not None and regions is not None  # or reading the request would have failed
    if data.nbytes > region.nbytes:
        raise RequestError(
            400,
            f"output {wanted.name!r} has {data.nbytes} bytes; the request gives it {region.nbytes} of shared memory",
        )
    regions.write(region.name, region.offset, data)
    where = {
        "shared_memory_region": region.name,
        "shared_memory_offset": region.offset,
        "shared_memory_byte_size": data.nbytes,
    }
    return json.dumps(where).encode()


def _classes(wanted: Wanted, array: Array) -> Array:
    """BYTES [k], or [batch, k]: the k largest, largest first, as "value:index"; NaN comes last, the first of equals
    first. Values are written as printf does with %f and %d."""
    if array.size > MAX_CLASSIFIED:
        raise RequestError(
            400,
            f"output {wanted.name!r} has {array.size} elements, more than {MAX_CLASSIFIED}: too many to classify",
        )
    samples = array.reshape(array.shape[0] if wanted.samples else 1, -1)
    falling = (
        -samples if samples.dtype.kind == "f" else ~samples
    )  # ~ turns the order round without an overflow
    best = np.argsort(falling, axis=1, kind="stable")[:, : wanted.classes]
    form = "%f:%d" if samples.dtype.kind == "f" else "%d:%d"
    texts = [
        (form % (value, index)).encode()
        for row, indices in zip(samples, best, strict=True)
        for value, index in zip(row[indices].tolist(), indices.tolist(), strict=True)
    ]
    classes = np.empty(len(texts), np.object_)
    classes[:] = texts
    return classes.reshape(best.shape if wanted.samples else best.shape[1:])
