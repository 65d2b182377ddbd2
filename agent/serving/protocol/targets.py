"""Paths of the Open Inference Protocol V2 and what may be done with them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from agent.serving.http.messages import Head, RequestError

SERVER_ACTIONS = {"": "server", "/health/live": "live", "/health/ready": "ready"}
MODEL_ACTIONS = {(): "metadata", ("ready",): "ready", ("infer",): "infer"}


@dataclass(frozen=True, slots=True)
class Target:
    """``model`` is None for the server itself; ``action``: server, live, ready, metadata or infer."""

    action: str
    model: str | None = None
    version: str | None = None


def parse_target(path: str) -> Target:
    """What a request path means; RequestError 404 when nothing."""
    if not path.startswith("/v2"):
        raise RequestError(404, f"{path[:200]!r} is unknown; the protocol's paths begin with /v2")
    rest = path[len("/v2") :]
    if rest in SERVER_ACTIONS:
        return Target(SERVER_ACTIONS[rest])
    parts = [unquote(part) for part in rest.split("/")]
    if parts[:2] == ["", "models"] and len(parts) >= 3:
        model, version, tail = parts[2], None, parts[3:]
        if len(tail) >= 2 and tail[0] == "versions":
            version, tail = tail[1], tail[2:]
        action = MODEL_ACTIONS.get(tuple(tail))
        if action is not None:
            return Target(action, model, version)
    raise RequestError(404, f"{path[:200]!r} is unknown; try /v2/models/NAME/infer or /v2/models/NAME")


def check_method(head: Head, target: Target) -> None:
    """RequestError 405 with the allowed method, 501 for a chunked body."""
    allowed = "POST" if target.action == "infer" else "GET"
    if head.method != allowed:
        raise RequestError(405, f"{head.method} is not allowed here; use {allowed}", {"Allow": allowed})
    if head.chunked:
        raise RequestError(501, "chunked bodies are not supported; send Content-Length")


def server_metadata(version: str) -> dict[str, object]:
    """The answer to GET /v2; extensions are those that work."""
    return {"name": "overlaid", "version": version, "extensions": ["binary_tensor_data"]}
