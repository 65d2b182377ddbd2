"""One-off commands from the operator: logs, bench, cancel, restart, download. Carried out at most once; the result is
queued."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.deploy.manager import Manager
from agent.errors import LinkError, OverlaidError, Replayed, UsageError, one_line
from agent.link.messages import Command, Result
from agent.link.topics import OPS, Target
from agent.telemetry import queries
from agent.types import State

log = logging.getLogger("commands")
MAX_LOG_BYTES = 192 * 1024  # of the 256 KiB that a message on the wire may have


class Commands:
    """Performs commands and hands results to ``send(topic, payload)``."""

    def __init__(
        self,
        node: Target,
        manager: Manager,
        telemetry_db: Path,
        send: Callable[[str, bytes], None],
    ) -> None:
        self._node, self._manager = node, manager
        self._telemetry_db, self._send = telemetry_db, send

    async def perform(self, command: Command) -> None:
        """Carry out a verified command and send its result."""
        try:
            output = await self._output(command)
            self._result(command.op, command.id, State.SUCCEEDED, "", output)
        except OverlaidError as error:
            self._result(command.op, command.id, State.FAILED, f"{error.name}: {one_line(error)}", {})
        except Exception as error:  # a bug must answer too
            log.exception("command %s", command.op)
            self._result(command.op, command.id, State.FAILED, f"internal error: {one_line(error)}", {})

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
        try:
            self._send(self._node.result(op, command_id), result.encode())
        except LinkError as error:
            log.error("the result of %s %s is lost: %s", op, command_id, error)

    async def _output(self, command: Command) -> dict[str, Any]:
        if command.op == "logs":
            rows = await asyncio.to_thread(queries.recent_events, self._telemetry_db, command.lines)
            return {"events": _newest_within(rows, MAX_LOG_BYTES)}
        if command.model is None:
            raise UsageError(f"{command.op} needs a model (--model NAME)")
        if command.op == "restart":
            await self._manager.restart(command.model)
            return {"restarted": command.model}
        if command.op == "cancel":
            if not self._manager.cancel(command.model):
                raise UsageError(f"{command.model} has no deployment in progress")
            return {"canceled": command.model}
        if command.op == "download":
            if not self._manager.download(command.model):
                raise UsageError(f"{command.model} has no deployment in progress")
            return {"downloads": command.model}
        return await self._manager.bench(command.model)


def _newest_within(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The last rows, in order, whose JSON has at most ``limit`` bytes."""
    kept: list[dict[str, Any]] = []
    for row in reversed(rows):
        limit -= len(json.dumps(row)) + 2
        if limit < 0:
            break
        kept.append(row)
    return kept[::-1]
