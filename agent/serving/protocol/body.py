"""The body of an inference as HTTP carries it: where it goes, and its compression (RFC 9110, 8.4 and 12.5.3).

As in Triton, the header that tells the length of the JSON counts bytes of the body as it was before compression.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from agent.serving.http.messages import JSON, Head, Reply, RequestError, check_content_type
from agent.serving.protocol.request import HEADER_LENGTH
from agent.types import TensorSpec

ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ALIGNMENT = 64  # of the first binary tensor: a cache line, and more than any instruction asks for
LEAST_LIMIT = 1 << 20
JSON_BYTES = 64  # of one number, with what stands around it
CHUNK = 1 << 20
# From here on gzip at its fastest takes less time than a link of 500 Mbit/s saves; nearer clients do not ask for it.
COMPRESS_FROM = 64 * 1024
COMPRESS_LEVEL = 1


def body_limit(inputs: Sequence[TensorSpec], most: int) -> int:
    """Bytes that a request for a model may have: what its inputs can need, and not more than ``most``."""
    if any(spec.dynamic or spec.dtype == "BYTES" for spec in inputs):
        return most
    return min(most, LEAST_LIMIT + JSON_BYTES * sum(math.prod(spec.shape) for spec in inputs))


def body_memory(head: Head, limit: int) -> memoryview:
    """Memory for the body in which its first binary tensor is aligned, to be run on as it lies there.

    RequestError 411, 413 or 415 before a byte of it is read.
    """
    check_content_type(head)
    _encoding(head)
    if head.content_length is None:
        raise RequestError(411, "the request has no Content-Length")
    if head.content_length > limit:
        raise RequestError(413, f"the body has {head.content_length} bytes; this model takes {limit}")
    return _aligned(head, head.content_length)


def plain_body(head: Head, body: memoryview, limit: int) -> memoryview:
    """The body as it was before compression. RequestError 400 for damaged data, 413 beyond ``limit`` bytes."""
    encoding = _encoding(head)
    if encoding is None:
        return body
    pieces: list[bytes] = []
    size = 0
    for piece in _inflated(body, encoding):
        size += len(piece)
        if size > limit:
            raise RequestError(413, f"the body has more than {limit} bytes without {encoding}")
        pieces.append(piece)
    memory, at = _aligned(head, size), 0
    for piece in pieces:
        memory[at : at + len(piece)] = piece
        at += len(piece)
    return memory


def _inflated(body: memoryview, encoding: str) -> Iterator[bytes]:
    """Pieces of at most CHUNK bytes."""
    stream = zlib.decompressobj(ENCODINGS[encoding])
    taken = 0
    while taken < len(body) and not stream.eof:
        rest: bytes | memoryview = body[taken : taken + CHUNK]
        taken += len(rest)
        full = True
        while (rest or full) and not stream.eof:
            try:
                piece = stream.decompress(rest, CHUNK)
            except zlib.error as error:
                raise RequestError(400, f"the body is not {encoding} data: {error}") from error
            rest, full = stream.unconsumed_tail, len(piece) == CHUNK
            yield piece
    if not stream.eof:
        raise RequestError(400, f"the body ends within its {encoding} data")
    if stream.unused_data or taken < len(body):
        raise RequestError(400, f"bytes follow the end of the body's {encoding} data")


def compressed(head: Head, reply: Reply) -> Reply:
    """``reply`` in the coding that the client prefers, if that is worth it: long JSON. Numbers in binary form hardly
    become shorter."""
    wanted = head.headers.get("accept-encoding")
    if not wanted or reply.content_type != JSON or sum(map(len, reply.parts)) < COMPRESS_FROM:
        return reply
    encoding = preferred(wanted)
    if encoding is None:
        return reply
    stream = zlib.compressobj(COMPRESS_LEVEL, zlib.DEFLATED, ENCODINGS[encoding])
    parts = [stream.compress(part) for part in reply.parts]
    return replace(
        reply,
        parts=(b"".join([*parts, stream.flush()]),),
        headers={**reply.headers, "Content-Encoding": encoding},
    )


def preferred(accept: str) -> str | None:
    """The coding with the highest weight of an Accept-Encoding; None for none, or when the plain form weighs more."""
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, _, parameters = item.partition(";")
        weights.setdefault(name.strip(), _weight(parameters))
    others = weights.get("*", 0.0)
    plain = weights.get("identity", 0.0)
    best = max(("gzip", "deflate"), key=lambda name: weights.get(name, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= plain else None


def _weight(parameters: str) -> float:
    """q of "q=0.5"; 1 where there is none, 0 for one that is no weight."""
    key, _, value = parameters.partition("=")
    if not key.strip():
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if key.strip() == "q" and 0 <= weight <= 1 else 0.0


def _encoding(head: Head) -> str | None:
    """None for a body that is not compressed; RequestError 415 with what may be sent."""
    encoding = head.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return None
    if encoding not in ENCODINGS:
        raise RequestError(
            415,
            f"Content-Encoding {encoding[:64]!r} is not supported; send gzip, deflate or the body as it is",
            {"Accept-Encoding": "gzip, deflate"},
        )
    return encoding


def _aligned(head: Head, size: int) -> memoryview:
    length = head.headers.get(HEADER_LENGTH.lower())
    if length is None or not (length.isascii() and length.isdigit() and len(length) < 20):
        return np.empty(size, np.uint8).data
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -(memory.__array_interface__["data"][0] + int(length)) % ALIGNMENT
    return memory[start : start + size].data
