"""Requests that the daemon answers itself: their bodies, and how they are answered at once or later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agent.serving.http.connection import Connection
from agent.serving.http.messages import Head, RequestError, check_content_type
from agent.serving.protocol.targets import Target

MAX_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A complete request to the server itself."""

    target: Target
    head: Head
    body: memoryview
    connection: Connection

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, empty when there is none; RequestError 400 for anything else."""
        if not self.body:
            return {}
        try:
            value = json.loads(bytes(self.body))
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the body is not valid JSON: {str(error)[:120]}") from error
        if not isinstance(value, dict):
            raise RequestError(400, "the body must be a JSON object")
        return value


def body_memory(head: Head) -> memoryview:
    """Memory for the body, if any; RequestError 413 or 415 before a byte of it is read."""
    check_content_type(head)
    if head.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "compressed bodies are not supported here; send the body as it is")
    size = head.content_length or 0
    if size > MAX_BODY:
        raise RequestError(413, f"the body has {size} bytes; calls to the server itself take {MAX_BODY}")
    return memoryview(bytearray(size))
