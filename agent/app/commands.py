"""One-off commands from the operator: logs, bench, cancel, restart. Carried out at most once; the result is queued."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.deploy.manager import Manager
from agent.errors import OverlaidError, Replayed, UsageError, one_line
from agent.link.messages import Command, Result
from agent.link.topics import OPS, Target
from agent.serving.pool import Pool
from agent.telemetry import queries
from agent.types import State, to_jsonable

log = logging.getLogger("commands")


class Commands:
    """Performs commands and hands results to ``send(topic, payload)``."""

    def __init__(
        self,
        node: Target,
        manager: Manager,
        pool: Pool,
        telemetry_db: Path,
        send: Callable[[str, bytes], None],
    ) -> None:
        self._node, self._manager, self._pool = node, manager, pool
        self._telemetry_db, self._send = telemetry_db, send

    async def perform(self, command: Command) -> None:
        """Carry out a verified command and send its result."""
        try:
            output = await self._output(command)
            self._result(command.op, command.id, State.SUCCEEDED, "", output)
        except OverlaidError as error:
            self._result(command.op, command.id, State.FAILED, f"{error.name}: {one_line(error)}", {})

    def refuse(self, topic: str, error: OverlaidError) -> None:
        """Answer REJECTED to a command that did not pass; a replay gets no answer, its first delivery had one."""
        op, command_id = topic.split("/")[-2:]
        if op in OPS and not isinstance(error, Replayed):
            self._result(op, command_id, State.REJECTED, f"{error.name}: {one_line(error)}", {})

    def _result(self, op: str, command_id: str, state: State, why: str, output: dict[str, Any]) -> None:
        try:
            result = Result.model_validate(
                {"id": command_id, "op": op, "state": state, "why": why, "output": output}
            )
        except ValueError:
            log.warning("no result for a command with a malformed id")
            return
        self._send(self._node.result(op, command_id), result.encode())

    async def _output(self, command: Command) -> dict[str, Any]:
        if command.op == "logs":
            rows = await asyncio.to_thread(queries.recent_events, self._telemetry_db, command.lines)
            return {"events": rows}
        if command.model is None:
            raise UsageError(f"{command.op} needs a model (--model NAME)")
        if command.op == "restart":
            await self._pool.restart(command.model)
            return {"restarted": command.model}
        if command.op == "cancel":
            if not self._manager.cancel(command.model):
                raise UsageError(f"{command.model} has no deployment in progress")
            return {"canceled": command.model}
        return {"verdicts": to_jsonable(await self._manager.bench(command.model))}
