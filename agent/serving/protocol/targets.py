"""Paths of the Open Inference Protocol V2 and of the pages beside it, and what may be done with them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from agent.serving.http.messages import Head, Reply, RequestError

SERVER_ACTIONS = {
    "/": "page",
    "/status.json": "status",
    "/openapi.json": "openapi",
    "/metrics": "metrics",
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
    "/v2/models/stats": "all-stats",
    "/v2/repository/index": "index",
}
MODEL_ACTIONS = {
    (): "metadata",
    ("ready",): "ready",
    ("config",): "config",
    ("stats",): "stats",
    ("infer",): "infer",
}
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "schedule_policy",
    "statistics",
)
LOADING = ("load", "unload")
SHARED_MEMORY = ("", "v2", "systemsharedmemory")
SHARED_MEMORY_ACTIONS = {"status": "shm-status", "register": "shm-register", "unregister": "shm-unregister"}
POSTED = frozenset({"infer", "index", "shm-register", "shm-unregister", *LOADING})


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for.

    ``model``: whose worker answers it, None for the server itself. ``subject``: what an action of the server is about,
    such as the name of a model to load.
    """

    action: str
    model: str | None = None
    version: str | None = None
    subject: str | None = None


@functools.lru_cache(64)
def parse_target(path: str) -> Target:
    """What a request path means; RequestError 404 when nothing."""
    if path in SERVER_ACTIONS:
        return Target(SERVER_ACTIONS[path])
    parts = tuple(unquote(part) for part in path.split("/"))
    if parts[:3] == ("", "v2", "models") and len(parts) >= 4:
        model, version, tail = parts[3], None, parts[4:]
        if len(tail) >= 2 and tail[0] == "versions":
            version, tail = tail[1], tail[2:]
        action = MODEL_ACTIONS.get(tail)
        if action is not None:
            return Target(action, model, version)
    if parts[:4] == ("", "v2", "repository", "models") and len(parts) == 6 and parts[5] in LOADING:
        return Target(parts[5], subject=parts[4])
    if parts[:3] == SHARED_MEMORY and (target := _shared_memory(parts[3:])):
        return target
    raise RequestError(
        404,
        f"{path[:200]!r} is unknown; try /v2/models/NAME/infer or /v2/models/NAME; /openapi.json lists all",
    )


def _shared_memory(tail: tuple[str, ...]) -> Target | None:
    """``region/NAME/ACTION``, or ``status`` and ``unregister`` of all."""
    action = SHARED_MEMORY_ACTIONS.get(tail[-1]) if tail else None
    if action is None:
        return None
    if len(tail) == 3 and tail[0] == "region":
        return Target(action, subject=tail[1])
    return Target(action) if len(tail) == 1 and action != "shm-register" else None


def check_method(head: Head, target: Target) -> Reply | None:
    """None when the method fits; the answer to OPTIONS. RequestError 405 with the allowed methods, 501 for a chunked
    body."""
    allowed = ("POST",) if target.action in POSTED else ("GET", "HEAD")
    if head.chunked:
        raise RequestError(501, "chunked bodies are not supported; send Content-Length")
    if head.method in allowed:
        return None
    headers = {"Allow": ", ".join((*allowed, "OPTIONS"))}
    if head.method == "OPTIONS":
        return Reply(200, headers=headers)
    raise RequestError(405, f"{head.method} is not allowed here; use {allowed[0]}", headers)


def server_metadata(version: str, more: Sequence[str] = ()) -> dict[str, object]:
    """The answer to GET /v2; extensions are those that work, ``more`` of them at the front door."""
    return {"name": "overlaid", "version": version, "extensions": [*EXTENSIONS, *more]}
