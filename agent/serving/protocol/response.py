"""Inference responses of the Open Inference Protocol V2: JSON, and its binary tensor extension."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.devices.tensors import NAMES
from agent.serving.http.messages import Reply
from agent.serving.protocol.request import HEADER_LENGTH, Array, InferRequest, Regions


def encode(
    model: str,
    version: str,
    request: InferRequest,
    results: Mapping[str, Array],
    regions: Regions | None = None,  # noqa: ARG001
) -> Reply:
    """The response: JSON, followed by the outputs that were asked for as binary."""
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    entries: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    for wanted in request.outputs:
        name, binary = wanted.name, wanted.binary
        array = np.ascontiguousarray(results[name]).reshape(np.shape(results[name]))
        entry: dict[str, Any] = {"name": name, "datatype": NAMES[array.dtype], "shape": list(array.shape)}
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            parts.append(array.reshape(-1).view(np.uint8).data)
        else:
            entry["data"] = array.reshape(-1).tolist()
        entries.append(entry)
    document["outputs"] = entries
    head = json.dumps(document, separators=(",", ":")).encode()
    if not parts:
        return Reply(200, (head,))
    return Reply(200, (head, *parts), "application/octet-stream", {HEADER_LENGTH: str(len(head))})
