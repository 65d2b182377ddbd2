"""One-off commands from the operator: logs, bench, cancel, restart, download. Carried out at most once; the result is
queued."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.deploy.manager import Manager
from agent.errors import LinkError, OverlaidError, Replayed, TelemetryError, UsageError, one_line
from agent.link.messages import MAX_LOG_BYTES, Command, Result
from agent.link.topics import OPS, Target
from agent.logs.recent import Recent
from agent.logs.rows import LogRow, Wanted, newest_within, of_event
from agent.telemetry import queries
from agent.types import State

log = logging.getLogger("commands")


class Commands:
    """Performs commands and hands results to ``send(topic, payload)``."""

    def __init__(
        self,
        node: Target,
        manager: Manager,
        telemetry_db: Path,
        send: Callable[[str, bytes], None],
        recent: Recent,
    ) -> None:
        self._node, self._manager = node, manager
        self._telemetry_db, self._send, self._recent = telemetry_db, send, recent

    async def perform(self, command: Command) -> None:
        """Carry out a verified command and send its result."""
        try:
            output = await self._output(command)
            self._result(command.op, command.id, State.SUCCEEDED, "", output)
        except OverlaidError as error:
            self._result(command.op, command.id, State.FAILED, f"{error.name}: {one_line(error)}", {})
        except Exception as error:  # a bug must answer too
            log.exception("command %s", command.op, extra={"model": command.model})
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
            return await asyncio.to_thread(self._logs, command)
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

    def _logs(self, command: Command) -> dict[str, Any]:
        """The newest rows of the log; what happened before the daemon began is in telemetry.db, as events.
        ``left_out``: there are older ones that the limits do not let through."""
        since = None if command.since_s is None else time.time() - command.since_s
        wanted = Wanted(command.lines, since, command.model)
        rows = [row for row in self._recent.rows() if wanted.takes(row)]
        if len(rows) <= command.lines and (since is None or since < self._recent.began):
            rows = [*self._before(command, since or 0.0), *rows]
        kept = newest_within(rows[-command.lines :], command.max_bytes or MAX_LOG_BYTES)
        return {"rows": kept, "left_out": len(kept) < len(rows)}

    def _before(self, command: Command, since: float) -> list[LogRow]:
        began = self._recent.began
        try:
            events = queries.recent_events(self._telemetry_db, command.lines + 1, since, command.model, began)
        except TelemetryError as error:
            text = f"what was before is not known: {one_line(error)}"
            return [LogRow(began, "WARNING", "telemetry", text)]
        return [of_event(event) for event in events]
