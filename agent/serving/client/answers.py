"""Answers from bytes: what is received goes into memory of the client's choice, and arrays are views of it.

Small answers come into one buffer that is used again, so their arrays are copies; a large one gets memory of its own,
laid so that its first tensor is aligned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agent.devices.tensors import DTYPES, NAMES, unpack_strings
from agent.serving.client.errors import (
    BadRequest,
    ConnectionLost,
    InferenceFailed,
    Stale,
    lost,
    refusal,
)
from agent.serving.client.requests import Array, Outputs

SMALL = 64 * 1024
ALIGN = 64
MAX_ANSWER = 1 << 30

# Name, type, shape, offset behind the JSON, and bytes of an output; -1 bytes: in shared memory.
Output = tuple[str, np.dtype[Any], tuple[int, ...], int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """``length``: bytes of the body; ``split``: of its JSON, behind which tensors follow."""

    status: int
    length: int
    split: int
    retry_after: float
    close: bool


class Answer(NamedTuple):
    """The body begins at ``start`` of ``memory``; ``lent``: the next answer is received into the same memory."""

    head: Head
    memory: Any
    start: int
    lent: bool

    @property
    def body(self) -> memoryview:
        return memoryview(self.memory)[self.start : self.start + self.head.length]


class Receiver:
    """Takes the answers of one connection, one after the other."""

    def __init__(self) -> None:
        self._small = bytearray(SMALL)
        self._head_text, self._head = bytearray(), Head(0, 0, 0, 0.0, True)
        self.expect()

    def expect(self) -> None:
        """Begin with the next answer."""
        self._target = memoryview(self._small)
        self._filled = 0
        self._large: Answer | None = None

    def ended(self, whole: bool) -> ConnectionLost | Stale:
        """What the end of the connection means; ``whole``: all of the request was sent."""
        begun = self._filled > 0 or self._large is not None
        return lost() if whole or begun else Stale()

    def buffer(self) -> memoryview:
        """Where to receive."""
        return self._target[self._filled :]

    def received(self, count: int) -> Answer | None:
        """``count`` bytes came: the answer when it is complete. Raises InferenceFailed for what is none."""
        self._filled += count
        if self._large is not None:
            return self._large if self._filled == len(self._target) else None
        end = self._small.find(b"\r\n\r\n", 0, self._filled) + 4
        if end < 4:
            if self._filled == SMALL:
                raise _nonsense()
            return None
        text = self._small[:end]
        if text != self._head_text:
            self._head, self._head_text = _parse_head(bytes(text)), text
        head = self._head
        if end + head.length > SMALL:
            self._grow(head, end)
            return None
        if self._filled < end + head.length:
            return None
        return Answer(head, self._small, end, lent=True)

    def _grow(self, head: Head, end: int) -> None:
        memory = np.empty(head.length + ALIGN, np.uint8)
        start = -(memory.ctypes.data + head.split) % ALIGN
        self._large = Answer(head, memory, start, lent=False)
        target = self._large.body
        here = self._filled - end
        target[:here] = memoryview(self._small)[end : self._filled]
        self._target, self._filled = target, here


class Results:
    """Makes arrays of answers. The JSON of answers is often the same as the last one's: it is read once."""

    def __init__(self) -> None:
        self._text: bytes | None = None
        self._layout: list[Output] = []

    def arrays(self, answer: Answer, outputs: Outputs) -> dict[str, Array]:
        """Output arrays by name; those of ``outputs`` that lie in shared memory are the arrays given.

        Raises the ClientError of an answer that is an error.
        """
        head = answer.head
        if head.status != 200:
            raise error_of(answer)
        json_end = answer.start + head.split
        text = answer.memory[answer.start : json_end]  # of a bytearray, or of a large answer's uint8 array
        if not answer.lent:
            text = text.tobytes()
        if text != self._text:
            self._layout = _layout(bytes(text), head.length - head.split)
            self._text = text
        results: dict[str, Array] = {}
        for name, kind, shape, offset, size in self._layout:
            at = json_end + offset
            if size < 0:
                results[name] = _given(outputs, name, kind, shape)
            elif kind.hasobject:
                results[name] = unpack_strings(memoryview(answer.memory)[at : at + size], shape)
            else:
                array: Array = np.ndarray(shape, kind, answer.memory, at)
                results[name] = array.copy() if answer.lent or not array.flags.aligned else array
        return results


def document(answer: Answer) -> Any:
    """The JSON of an answer; the ClientError of one that is an error."""
    if answer.head.status != 200:
        raise error_of(answer)
    try:
        return json.loads(bytes(answer.body))
    except ValueError as error:
        raise _nonsense() from error


def error_of(answer: Answer) -> Exception:
    """What an answer other than 200 stands for."""
    text = bytes(answer.body[:4096]).decode(errors="replace")
    try:
        text = str(json.loads(text)["error"])
    except (ValueError, LookupError, TypeError):
        text = f"HTTP status {answer.head.status}: {text[:200]}"
    return refusal(answer.head.status, text, answer.head.retry_after)


def _given(outputs: Outputs, name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """The array in shared memory that the request named; BadRequest when it is no such output's."""
    if not isinstance(outputs, Mapping) or name not in outputs:
        raise _nonsense()
    array = outputs[name]
    if not kind.hasobject and (array.dtype != kind or array.size != math.prod(shape)):
        raise BadRequest(
            f"output {name!r} is {NAMES[kind]} {list(shape)}, the array for it {array.dtype} {list(array.shape)}; make "
            "one that fits with Client.shared()"
        )
    return array


def _layout(text: bytes, nbytes: int) -> list[Output]:
    layout: list[Output] = []
    at = 0
    try:
        for entry in json.loads(text)["outputs"]:
            name, kind, shape = str(entry["name"]), DTYPES[entry["datatype"]], tuple(map(int, entry["shape"]))
            parameters = entry.get("parameters", {})
            if "shared_memory_region" in parameters:
                layout.append((name, kind, shape, 0, -1))
                continue
            size = int(parameters["binary_data_size"])
            layout.append((name, kind, shape, at, size))
            at += size
            if size < 0 or (not kind.hasobject and size != kind.itemsize * math.prod(shape)):
                raise ValueError("a size that does not fit its shape")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _nonsense() from error
    if at != nbytes:
        raise _nonsense()
    return layout


def _parse_head(text: bytes) -> Head:
    try:
        first, *lines = text.decode("latin-1").split("\r\n")
        fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        length = int(fields["content-length"])
        split = int(fields.get("inference-header-content-length", length))
        status = int(first.split(" ", 2)[1])
        retry = fields.get("retry-after", "")
        if not 0 <= split <= length <= MAX_ANSWER or not first.startswith("HTTP/1."):
            raise ValueError("numbers that do not fit")
    except (ValueError, LookupError) as error:
        raise _nonsense() from error
    close = fields.get("connection", "").lower() == "close"
    return Head(status, length, split, float(retry) if retry.isdigit() else 1.0, close)


def _nonsense() -> InferenceFailed:
    return InferenceFailed("the answer is none of the Open Inference Protocol; is the address the service's?")
