"""Messages from the operator: verified, journalled, acknowledged, then acted upon. In this order, so that a kill -9
at any point loses nothing: what was not acknowledged is delivered again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.app.commands import Commands
from agent.deploy.journal import Journal
from agent.deploy.manager import Manager
from agent.errors import OverlaidError, Replayed, StoreError, one_line
from agent.link.client import Message
from agent.link.messages import Command, Desired, open_signed
from agent.link.topics import OPS, Target
from agent.telemetry.writer import Telemetry
from agent.trust import Keyring

log = logging.getLogger("inbox")


class Inbox:
    """Handles what arrives on the node's and its groups' topics."""

    def __init__(
        self,
        targets: tuple[Target, ...],
        keys: Keyring,
        journal: Journal,
        manager: Manager,
        commands: Commands,
        telemetry: Telemetry,
        refused: Callable[[str], None],
    ) -> None:
        self._desired_topics = {target.desired: target for target in targets}
        self._targets = targets
        self._keys, self._journal, self._manager = keys, journal, manager
        self._commands, self._telemetry, self._refused = commands, telemetry, refused
        self._tasks: set[asyncio.Task[None]] = set()

    def subscriptions(self) -> list[str]:
        """Topic filters, all at QoS 1."""
        return [
            *self._desired_topics,
            *(target.topic("command", op, "+") for target in self._targets for op in OPS),
        ]

    def handle(self, message: Message) -> None:
        """One message; runs on the event loop."""
        target = self._desired_topics.get(message.topic)
        try:
            if target is not None:
                self._desired(target, message.payload)
            else:
                self._command(message)
        except StoreError as error:
            # Not acknowledged: the broker delivers it again after the next connect, when the disk may have healed.
            log.error("%s: not accepted, will be asked for again: %s", message.topic, error)
            self._telemetry.event("store-error", one_line(error))
            return
        except OverlaidError as error:
            self._refuse(message.topic, error, desired=target is not None)
        message.ack()

    def _desired(self, target: Target, payload: bytes) -> None:
        if not payload:
            return  # a cleared retained message; undeploying is an empty model list, signed
        _, desired = open_signed(Desired, payload, self._keys, target, self._journal.now())
        new = self._journal.accept_desired(str(target), desired.state())
        self._refused("")
        if new:
            log.info("desired revision %d of %s accepted", desired.revision, target)
            self._telemetry.event("desired", f"revision {desired.revision} of {target}")
            self._manager.reconcile()

    def _command(self, message: Message) -> None:
        target = next((t for t in self._targets if message.topic.startswith(t.topic("command") + "/")), None)
        if target is None:
            return
        key_id, command = open_signed(Command, message.payload, self._keys, target, self._journal.now())
        self._journal.accept_command(key_id, str(target), command.sequence, command.issued)
        task = asyncio.get_running_loop().create_task(self._commands.perform(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, topic: str, error: OverlaidError, *, desired: bool) -> None:
        why = f"{error.name}: {one_line(error)}"
        log.warning("%s refused: %s", topic, why)
        self._telemetry.event("refused", f"{topic.rsplit('/', 3)[-1]}: {why}")
        if desired and not isinstance(error, Replayed):
            self._refused(why)
        elif not desired:
            self._commands.refuse(topic, error)
