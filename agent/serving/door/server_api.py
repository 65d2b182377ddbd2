"""What the daemon answers itself, by action of ``protocol.targets``."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from agent import __version__
from agent.serving.door import exposition
from agent.serving.door.calls import Call
from agent.serving.door.metrics import Metrics
from agent.serving.door.node import NodeState
from agent.serving.door.shared_memory import SharedMemory
from agent.serving.door.status import status_values
from agent.serving.http.messages import JSON, RETRY, Reply, RequestError, json_reply
from agent.serving.pool import Pool
from agent.serving.protocol.targets import SHARED_MEMORY_ACTIONS, server_metadata

Answer = Reply | Awaitable[Reply]

HTML = "text/html; charset=utf-8"
FRESH = {"Cache-Control": "no-store"}
# The page needs itself and /status.json, and nobody puts it into a frame.
PAGE_POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


class ServerApi:
    """Health, repository, statistics and the like of all models.

    ``unavailable`` counts, by model, the requests that the front door refused because there was no worker.
    """

    def __init__(self, pool: Pool, node: Callable[[], NodeState], shared_memory: SharedMemory) -> None:
        self._pool, self._node = pool, node
        extensions = ["model_repository", *(["system_shared_memory"] if shared_memory.on else [])]
        self.unavailable: Counter[str] = Counter()
        self._actions: dict[str, Callable[[Call], Answer]] = {
            "server": lambda _: json_reply(server_metadata(__version__, extensions)),
            "live": lambda _: json_reply({"live": True}),
            "ready": self._ready,
            "all-stats": self._statistics,
            "index": self._index,
            "load": self._refuse_loading,
            "unload": self._refuse_loading,
            "metrics": self._metrics,
            "status": self._status,
            "page": partial(_file, "page.html", HTML, PAGE_POLICY),
            "openapi": partial(_file, "openapi.json", JSON, {}),
            **dict.fromkeys(SHARED_MEMORY_ACTIONS.values(), shared_memory.call),
        }

    def answer(self, call: Call) -> Answer:
        """The reply, or what will give it. Raises RequestError."""
        action = self._actions.get(call.target.action)
        if action is None:
            raise RequestError(404, f"{call.head.path[:200]!r} is not served here")
        return action(call)

    def _ready(self, _: Call) -> Reply:
        waiting = [model for model in self._pool.models() if self._pool.trouble(model)]
        if waiting:
            return json_reply({"ready": False, "waiting_for": waiting}, 503, RETRY)
        return json_reply({"ready": True})

    async def _statistics(self, _: Call) -> Reply:
        """Of every model that has a worker; one that goes just now is left out."""
        workers = [worker for model in self._pool.models() if (worker := self._pool.worker(model))]
        found = await asyncio.gather(*(worker.describe() for worker in workers), return_exceptions=True)
        entries = [one["statistics"] for one in found if not isinstance(one, BaseException)]
        return json_reply({"model_stats": entries})

    def _index(self, call: Call) -> Reply:
        """Every model that is served or about to be; ``{"ready": true}`` asks for those that answer now."""
        only_ready = call.json().get("ready", False)
        if not isinstance(only_ready, bool):
            raise RequestError(400, "ready must be true or false")
        entries = [self._entry(model) for model in self._pool.models()]
        return json_reply([entry for entry in entries if entry["state"] == "READY" or not only_ready])

    def _entry(self, model: str) -> dict[str, str]:
        status = self._pool.status(model)
        if status is None:
            return {"name": model, "state": "LOADING", "reason": "installed, not started yet"}
        state, reason = ("READY", "") if status.ready else ("UNAVAILABLE", status.why)
        return {"name": model, "version": status.version, "state": state, "reason": reason}

    def _refuse_loading(self, call: Call) -> Reply:
        raise RequestError(
            403,
            f"model {str(call.target.subject)[:64]!r} is loaded and unloaded by what this node is told to run; use "
            "`overlaid deploy`, `overlaid undeploy` or `overlaid fleet deploy`",
        )

    def _metrics(self, _: Call) -> Reply:
        metrics = Metrics()
        metrics.node(self._node())
        for model in self._pool.models():
            metrics.worker(model, self._pool.status(model), self.unavailable[model])
        return Reply(200, (metrics.text(),), exposition.CONTENT_TYPE, FRESH)

    def _status(self, _: Call) -> Reply:
        workers = {model: self._pool.status(model) for model in self._pool.models()}
        return json_reply(status_values(self._node(), workers), headers=FRESH)


def _file(name: str, content_type: str, headers: dict[str, str], _: Call) -> Reply:
    """A file of this package; read anew because it is asked for rarely."""
    return Reply(200, (Path(__file__).with_name(name).read_bytes(),), content_type, headers)
