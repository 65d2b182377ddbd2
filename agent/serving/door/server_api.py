"""What the daemon answers itself, by action of ``protocol.targets``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent import __version__
from agent.serving.door.calls import Call
from agent.serving.http.messages import RETRY, Reply, RequestError, json_reply
from agent.serving.pool import Pool
from agent.serving.protocol.targets import server_metadata

Answer = Reply | Awaitable[Reply]


class ServerApi:
    """Health, repository and the like of all models."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._actions: dict[str, Callable[[Call], Answer]] = {
            "server": lambda _: json_reply(server_metadata(__version__)),
            "live": lambda _: json_reply({"live": True}),
            "ready": self._ready,
            "index": self._index,
            "load": self._refuse_loading,
            "unload": self._refuse_loading,
        }

    def answer(self, call: Call) -> Answer:
        """The reply, or what will give it. Raises RequestError."""
        action = self._actions.get(call.target.action)
        if action is None:
            raise RequestError(404, f"{call.head.path[:200]!r} is not served here")
        return action(call)

    def _ready(self, _: Call) -> Reply:
        waiting = [model for model in self._pool.models() if self._pool.worker(model) is None]
        if waiting:
            return json_reply({"ready": False, "waiting_for": waiting}, 503, RETRY)
        return json_reply({"ready": True})

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
        state, reason = ("READY", "") if status.ready else ("UNAVAILABLE", "its worker is being restarted")
        return {"name": model, "version": status.version, "state": state, "reason": reason}

    def _refuse_loading(self, call: Call) -> Reply:
        raise RequestError(
            503,
            f"model {str(call.target.subject)[:64]!r} is loaded and unloaded by what this node is told to run; use "
            "`overlaid deploy`, `overlaid undeploy` or `overlaid fleet deploy`",
        )
