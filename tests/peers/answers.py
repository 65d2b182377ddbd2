"""Answers of two servers to the same request, made comparable."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.peers.cases import HEADER_LENGTH, Case
from tests.peers.servers import Peer

TIMEOUT_S = 20.0
UNPACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}


@dataclass(frozen=True, slots=True)
class Answer:
    """``status``: 0 when the connection was closed instead. ``document``: the JSON as text with sorted keys (NaN equals
    NaN then), "" without any; ``binary``: what follows it."""

    status: int
    coding: str = ""
    kind: str = ""
    document: str = ""
    binary: bytes = b""


def ask(peer: Peer, case: Case) -> Answer:
    """The answer on a connection of its own."""
    connection = http.client.HTTPConnection(peer.address, timeout=TIMEOUT_S)
    body = iter([case.body]) if case.chunked else case.body
    try:
        connection.request(case.method, case.path, body, dict(case.headers), encode_chunked=case.chunked)
        answer = connection.getresponse()
        return _comparable(case, answer, answer.read())
    except (ConnectionError, http.client.BadStatusLine):
        return Answer(0)
    finally:
        connection.close()


def _comparable(case: Case, answer: http.client.HTTPResponse, body: bytes) -> Answer:
    """Texts of errors are each server's own; that there is one is not."""
    coding = answer.getheader("Content-Encoding", "")
    data = UNPACK[coding](body)
    split = int(answer.getheader(HEADER_LENGTH, len(data)))
    document: Any = json.loads(data[:split].decode(errors="replace")) if data else None
    if answer.status >= 400:
        return Answer(answer.status, coding, "", str(bool(document and document.get("error"))))
    _round(document)
    if case.only is not None:
        document = {key: document.get(key) for key in case.only}
    if case.keys:
        document = _keys(document)
    kind = answer.getheader("Content-Type", "") if data else ""
    text = json.dumps(document, sort_keys=True) if data else ""
    return Answer(answer.status, coding, kind, text, data[split:])


def _round(document: Any) -> None:
    """Digits of FP32 outputs beyond FP32: 0.1 and 0.10000000149011612 are the same."""
    for output in document.get("outputs", ()) if isinstance(document, dict) else ():
        if output["datatype"] == "FP32" and "data" in output:
            output["data"] = np.array(output["data"], np.float32).tolist()


def _keys(value: Any) -> Any:
    """Its structure: names and types, of lists the first element's."""
    if isinstance(value, dict):
        return {key: _keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_keys(item) for item in value[:1]]
    return type(value).__name__
