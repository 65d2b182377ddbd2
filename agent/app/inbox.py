"""Messages from the operator: verified, journalled, acknowledged, then acted upon. In this order, so that a kill -9
at any point loses nothing: what was not acknowledged is delivered again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agent.app.commands import Commands
from agent.deploy.journal import Journal
from agent.deploy.manager import Manager
from agent.errors import Expired, OverlaidError, Replayed, StoreError, one_line
from agent.link.client import Message
from agent.link.messages import Command, Desired, open_signed
from agent.link.topics import OPS, Target
from agent.telemetry.writer import Telemetry
from agent.trust import Keyring

log = logging.getLogger("inbox")
MAX_REFUSALS_PER_S = 5
MAX_WAITING = 100  # messages that a disk refuses; what is more comes again at the next connect
RETRY_S = 10.0
CLOCK_S = 30.0  # between looks whether a clock that was wrong has been set


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
        self._second = self._refusals = 0
        self._waiting: dict[str, Message] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._expired: dict[str, Message] = {}  # the newest of each topic that is
        self._clock_timer: asyncio.TimerHandle | None = None

    def subscriptions(self) -> list[str]:
        """Topic filters, all at QoS 1."""
        return [
            *self._desired_topics,
            *(target.topic("command", op, "+") for target in self._targets for op in OPS),
        ]

    async def close(self) -> None:
        """End the commands under way; their workers must not outlive the pool."""
        for timer in (self._timer, self._clock_timer):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def handle(self, message: Message) -> None:
        """One message; runs on the event loop."""
        target = self._desired_topics.get(message.topic)
        self._expired.pop(message.topic, None)
        try:
            if target is not None:
                self._desired(target, message.payload)
            else:
                self._command(message)
        except StoreError as error:
            # Not acknowledged, so that nothing is lost; tried again here, because a broker repeats it only at the
            # next connect, and the disk may heal long before.
            log.error("%s: not accepted yet: %s", message.topic, error)
            self._telemetry.event("store-error", one_line(error))
            if target is not None:
                self._refused(f"{error.name}: {one_line(error)}")
            self._try_again(message)
            return
        except OverlaidError as error:
            self._refuse(message.topic, error, desired=target is not None)
            if target is not None and isinstance(error, Expired):
                self._expired[message.topic] = message
                self._look_later()
        message.ack()

    def _look_later(self) -> None:
        if self._clock_timer is None:
            self._clock_timer = asyncio.get_running_loop().call_later(CLOCK_S, self._look_again)

    def _look_again(self) -> None:
        """The clock may have been wrong, and nobody sends a retained message again before the next connection: look
        again, without a word, whether what it took for expired is."""
        self._clock_timer = None
        for topic, message in list(self._expired.items()):
            target = self._desired_topics[topic]
            try:
                open_signed(Desired, message.payload, self._keys, target, self._journal.now())
            except OverlaidError:
                continue
            self.handle(message)
        if self._expired:
            self._look_later()

    def _try_again(self, message: Message) -> None:
        if len(self._waiting) < MAX_WAITING or message.topic in self._waiting:
            self._waiting[message.topic] = message  # the newest of a topic
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        for message in waiting.values():
            self.handle(message)

    def _desired(self, target: Target, payload: bytes) -> None:
        if not payload:
            return  # a cleared retained message; undeploying is an empty model list, signed
        _, desired = open_signed(Desired, payload, self._keys, target, self._journal.now())
        self._manager.admit(str(target), desired.state())
        new = self._journal.accept_desired(str(target), desired.state())
        self._refused("")
        if new:
            log.info("desired revision %d of %s accepted", desired.revision, target)
            self._telemetry.event("desired", f"revision {desired.revision} of {target}")
        self._manager.reconcile()  # a redelivered one too: the first time may have ended between the two

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
        """Say why, at most five times a second: whoever may publish here must not fill logs and disks."""
        second = int(time.monotonic())
        self._refusals = self._refusals + 1 if second == self._second else 1
        self._second = second
        if self._refusals > MAX_REFUSALS_PER_S:
            return
        why = f"{error.name}: {one_line(error)}"
        log.warning("%s refused: %s", topic, why)
        self._telemetry.event("refused", f"{topic.rsplit('/', 3)[-1]}: {why}")
        if desired and not isinstance(error, Replayed):
            self._refused(why)
        elif not desired:
            self._commands.refuse(topic, error)
