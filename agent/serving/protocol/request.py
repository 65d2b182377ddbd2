"""Inference requests of the Open Inference Protocol V2.

Formats: https://github.com/kserve/open-inference-protocol (rest/inference_rest.md), and of Triton's extensions: binary
tensor data, classification, shared memory, and the parameters timeout and priority.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.serving.http.messages import RequestError
from agent.serving.protocol.data import Array, binary_size, from_binary
from agent.serving.protocol.header import Header, Input, RegionSlice, Wanted, read_header
from agent.types import TensorSpec

MAX_KNOWN_BYTES = 2048
MAX_KNOWN = 64
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class InferRequest:
    """``outputs``: in the order asked for. ``timeout_s``: None when the client set none. ``priority``: 1 is the most
    urgent, 0 the model's default. ``batch``: the free first dimension of the inputs, 1 when none is free."""

    id: str | None
    tensors: Mapping[str, Array]
    outputs: tuple[Wanted, ...]
    timeout_s: float | None = None
    priority: int = 0
    batch: int = 1


class Regions(Protocol):
    """The shared memory that one client may use. Both methods raise RequestError (unknown, out of bounds, not its)."""

    def read(self, name: str, offset: int, nbytes: int, /) -> memoryview:
        """``nbytes`` of the region."""
        ...

    def write(self, name: str, offset: int, array: Array, /) -> None:
        """Put a C-contiguous array's bytes (uint8, one dimension) there."""
        ...


class Decoder:
    """Reads the requests for a model with these tensors.

    Clients repeat themselves: before binary tensors comes the same JSON again and again. What short ones mean is
    remembered.
    """

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = {spec.name: spec for spec in outputs}
        self._known: dict[bytes, Header] = {}

    def decode(
        self, body: memoryview, header_length: str | None, regions: Regions | None = None
    ) -> InferRequest:
        """Read one. Binary tensors are views of ``body``, and of the client's memory when they lie in ``regions``.

        Raises RequestError 400 saying what is wrong and what was expected, 413, and what ``regions`` raises. None for
        ``regions``: shared memory is off.
        """
        split = len(body) if header_length is None else _header_length(header_length, len(body))
        if split == 0 and header_length is not None:
            return self._raw(body)
        header = self._known_header(bytes(body[:split]))
        if regions is None and header.shares:
            raise _bad(
                "shared memory is off; serving.shared_memory = true in the node's configuration turns it on"
            )
        tensors: dict[str, Array] = {}
        for given in header.inputs:
            if given.array is not None:
                tensors[given.spec.name] = given.array
            elif given.region is not None and regions is not None:
                tensors[given.spec.name] = _shared(given, given.region, regions)
            else:
                end = split + given.size
                if end > len(body):
                    raise _truncated(given, len(body) - split, header_length)
                tensors[given.spec.name] = from_binary(body[split:end], given.spec, given.shape)
                split = end
        if split != len(body):
            raise _bad(f"{len(body) - split} bytes after the last binary tensor belong to no input")
        return InferRequest(
            header.id, tensors, header.outputs, header.timeout_s, header.priority, header.batch
        )

    def _raw(self, body: memoryview) -> InferRequest:
        """A body without a header (its length is 0): the data of the only input; every output comes as binary.

        A free first dimension follows from the body's length. Of BYTES it is the one string, without its length.
        """
        if len(self._inputs) != 1:
            raise _bad(f"{HEADER_LENGTH} 0 is for models with one input; this one has {list(self._inputs)}")
        (spec,) = self._inputs.values()
        one = binary_size(spec, spec.concrete())
        batch = 1 if one is None else max(1, len(body) // one)
        shape = spec.concrete(batch)
        if one is None:
            if set(shape) > {1}:
                raise _bad(f"input {spec.name!r}: a body without a header is one string, not {list(shape)}")
            array = from_binary(memoryview(len(body).to_bytes(4, "little") + body), spec, shape)
        elif len(body) != binary_size(spec, shape):
            raise _bad(f"input {spec.name!r}: {len(body)} bytes are no {spec.dtype} {list(spec.shape)}")
        else:
            array = from_binary(body, spec, shape)
        wanted = tuple(
            Wanted(spec.name, binary=True, samples=spec.dynamic) for spec in self._outputs.values()
        )
        return InferRequest(None, {spec.name: array}, wanted, batch=batch)

    def _known_header(self, data: bytes) -> Header:
        if len(data) > MAX_KNOWN_BYTES:
            return read_header(data, self._inputs, self._outputs)
        header = self._known.get(data)
        if header is None:
            header = read_header(data, self._inputs, self._outputs)
            if not header.has_json:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[data] = header
        return header


def _shared(given: Input, region: RegionSlice, regions: Regions) -> Array:
    data = regions.read(region.name, region.offset, region.nbytes)
    array = from_binary(data, given.spec, given.shape)
    # The client may write while the model runs. Integers may be indices, which a runtime checks before it uses them.
    return array.copy() if array.dtype.kind in "iu" and array.itemsize > 1 else array


def _truncated(given: Input, left: int, header_length: str | None) -> RequestError:
    where = f"input {given.spec.name!r}"
    if header_length is None:
        return _bad(f"{where} has binary_data_size, but the header {HEADER_LENGTH} is missing")
    return _bad(f"{where}: {given.size} bytes announced, {left} are left in the body")


def _bad(text: str) -> RequestError:
    return RequestError(400, text)


def _header_length(text: str, body: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= body):
        raise _bad(f"{HEADER_LENGTH} {text[:40]!r} is not between 0 and the body's length {body}")
    return int(text)
