"""The operations of the local control socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agent.app.reporter import Reporter
from agent.deploy.manager import Manager
from agent.errors import DeployError, MessageError, UsageError, from_name
from agent.types import MAX_INSTANCES, BoardInfo, Budget, Phase, State, to_jsonable
from agent.validation import explain_validation

_BUDGET = TypeAdapter(Budget)
Answer = dict[str, Any]
PROGRESS_S = 0.1


class LocalOperations:
    """Answers one request after another; ``ready`` is False until the board is probed and models are restored."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._manager: Manager | None = None
        self._board: BoardInfo | None = None

    def attach(self, manager: Manager, board: BoardInfo) -> None:
        self._manager, self._board = manager, board

    async def handle(self, request: dict[str, Any]) -> AsyncIterator[Answer]:
        """Yield progress and one final answer. Raises the named error that the socket sends."""
        operations: dict[str, Callable[[dict[str, Any]], AsyncIterator[Answer]]] = {
            "snapshot": self._snapshot,
            "devices": self._devices,
            "explain": self._explain,
            "deploy": self._deploy,
            "undeploy": self._undeploy,
            "restart": self._restart,
            "bench": self._bench,
        }
        operation = operations.get(str(request.get("op")))
        if operation is None:
            raise MessageError(f"op must be one of {', '.join(operations)}")
        async for answer in operation(request):
            yield answer

    def _ready(self) -> Manager:
        if self._manager is None:
            raise UsageError("the daemon is still probing its devices; try again in a few seconds")
        return self._manager

    async def _restored(self) -> Manager:
        """The manager, once it has brought back what was installed."""
        manager = self._ready()
        await manager.restored.wait()
        return manager

    async def _snapshot(self, _: dict[str, Any]) -> AsyncIterator[Answer]:
        yield {"ok": to_jsonable(self._reporter.snapshot())}

    async def _devices(self, _: dict[str, Any]) -> AsyncIterator[Answer]:
        self._ready()
        yield {"ok": to_jsonable(self._board)}

    async def _explain(self, request: dict[str, Any]) -> AsyncIterator[Answer]:
        yield {"ok": await self._ready().explain(_text(request, "model"))}

    async def _bench(self, request: dict[str, Any]) -> AsyncIterator[Answer]:
        manager, share = await self._restored(), 0.0

        def progress(done: float) -> None:
            nonlocal share
            share = done

        work = asyncio.ensure_future(manager.bench(_text(request, "model"), progress))
        try:
            while not work.done():
                yield {"progress": {"phase": Phase.PROFILING.value, "share": share}}
                await asyncio.wait({work}, timeout=PROGRESS_S)
            yield {"ok": work.result()}
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _deploy(self, request: dict[str, Any]) -> AsyncIterator[Answer]:
        manager = await self._restored()
        folder = Path(_text(request, "package"))
        if not folder.is_absolute():
            raise UsageError("package must be an absolute path")
        try:
            budget = _BUDGET.validate_json(json.dumps(request.get("budget")))
        except ValidationError as error:
            raise UsageError(f"budget: {explain_validation(error)}") from error
        instances = request.get("instances", 1)
        if type(instances) is not int or not 1 <= instances <= MAX_INSTANCES:
            raise UsageError(f"instances must be between 1 and {MAX_INSTANCES}")
        deployment = manager.deploy_local(folder, budget, instances)
        while True:
            now = manager.outcome(deployment.id)
            if now is None:
                raise DeployError("a newer deployment of this model took its place")
            if now.state.final:
                break
            status = next((s for s in manager.statuses() if s.name == deployment.model.name), None)
            yield {"progress": {"phase": status and status.phase, "share": status and status.progress}}
            await asyncio.sleep(PROGRESS_S)
        if now.state is not State.SUCCEEDED:
            name, _, text = now.why.partition(": ")
            raise from_name(name, f"{now.state.value}: {text}")
        yield {"ok": {"state": now.state.value, "placement": to_jsonable(manager.placement(now.model.name))}}

    async def _undeploy(self, request: dict[str, Any]) -> AsyncIterator[Answer]:
        model = _text(request, "model")
        await (await self._restored()).undeploy_local(model)
        yield {"ok": {"removed": model}}

    async def _restart(self, request: dict[str, Any]) -> AsyncIterator[Answer]:
        model = _text(request, "model")
        await self._ready().restart(model)
        yield {"ok": {"restarted": model}}


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise MessageError(f"{key} must be a text of 1-4096 characters")
    return value
