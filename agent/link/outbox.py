"""Messages that must reach the operator: kept in ``outbox.db`` until the broker has acknowledged them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import LinkError
from agent.link.client import MAX_PAYLOAD_BYTES, MqttLink
from agent.link.spool import Encode, Key, Priority, Spool, Waiting
from agent.waiting import set_within

BATCH = 32  # messages under way at once ...
BATCH_BYTES = 256 << 10  # ... and their payloads, unless one has more
HELD_BYTES = 1 << 20  # in memory, while the disk refuses them
MAX_UNDELETED = 512  # sent, and on a disk that refuses to forget them
RETRY_S = 10.0

log = logging.getLogger("link")
T = TypeVar("T")


class Outbox:
    """At least once, the highest priority first and each priority in order. Used from one thread, the event loop's.

    What waits has at most ``max_bytes``: beyond them the oldest of the lowest priority goes. A disk that refuses does
    not stop it: it is tried again, and until then a little waits in memory. ``problem`` says so, ``tell`` hears of it
    and of what was lost, a line each.
    """

    def __init__(self, path: Path, max_bytes: int, tell: Callable[[str], None] = log.warning) -> None:
        self.problem = ""
        self._spool = Spool(path, max_bytes)
        self._tell = tell
        self._told_dropped = self._lost = 0
        self._held: deque[tuple[str, bytes, Priority]] = deque()
        self._undeleted: set[Key] = set()
        self._filled = asyncio.Event()
        self._try(self._spool.open)

    def __len__(self) -> int:
        return len(self._spool) + len(self._held)

    @property
    def dropped(self) -> int:
        """Messages that went for want of space."""
        return self._spool.dropped + self._lost

    @property
    def damaged(self) -> int:
        """Files that were put aside."""
        return self._spool.damaged

    def put(self, topic: str, payload: bytes, priority: Priority = Priority.RESULT) -> None:
        """Keep a message; when this returns it is on the disk, or in memory while the disk refuses."""
        _check(topic, payload)
        self._held.append((topic, payload, priority))
        self._save()
        while sum(len(message[1]) for message in self._held) > HELD_BYTES:
            self._held.popleft()
            self._lost += 1
        self._filled.set()

    def append(
        self, topic: str, parts: Sequence[T], encode: Encode[T], priority: Priority, notes: Mapping[str, Any]
    ) -> None:
        """See ``Spool.append``; LinkError when the disk refuses: nothing was numbered then."""

        def checked(series: str, sequence: int, part: T) -> bytes:
            payload = encode(series, sequence, part)
            _check(topic, payload)
            return payload

        failed = self._try(lambda: self._spool.append(topic, parts, checked, priority, notes))
        if failed is not None:
            raise failed
        self._filled.set()

    def note(self, name: str) -> Any:
        """See ``Spool.note``."""
        return self._spool.note(name)

    async def run(self, link: MqttLink) -> None:
        """Send what waits, and what comes, until cancelled. A message under way then is sent again by the next run."""
        while True:
            await link.connected()
            self._filled.clear()
            held, waiting = self._next()
            if not held and not waiting:
                self._tell_dropped()
                await set_within(self._filled, RETRY_S if self.problem else None)
                continue
            messages = [(topic, payload) for topic, payload, _ in held]
            messages += [(one.topic, one.payload) for one in waiting]
            futures = [link.publish(topic, payload, qos=1) for topic, payload in messages]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            sent = [outcome is None for outcome in outcomes]
            self._forget(
                [one for one, done in zip(held, sent, strict=False) if done],
                [one.key for one, done in zip(waiting, sent[len(held) :], strict=True) if done],
            )
            if not all(sent):
                await asyncio.sleep(1.0)  # stopped, or other messages fill the link

    def close(self) -> None:
        self._save()
        self._settle()
        self._spool.close()

    def _next(self) -> tuple[list[tuple[str, bytes, Priority]], list[Waiting]]:
        """What is to be sent: what memory holds goes first, for it is what a restart would lose."""
        self._save()
        self._settle()
        waiting: list[Waiting] = []
        if len(self._undeleted) < MAX_UNDELETED:
            # A full disk can be read: what waits on it goes out, and is not sent again while it cannot be deleted.
            try:
                waiting = self._spool.first(BATCH, BATCH_BYTES, self._undeleted)
            except LinkError as error:
                self._failed(error)
        return list(self._held)[:BATCH], waiting

    def _save(self) -> None:
        if self._held and self._try(lambda: self._spool.put(self._held)) is None:
            self._held.clear()

    def _settle(self) -> None:
        if self._undeleted and self._try(lambda: self._spool.delete(self._undeleted)) is None:
            self._undeleted.clear()

    def _forget(self, held: Sequence[tuple[str, bytes, Priority]], keys: Sequence[Key]) -> None:
        for message in held:
            if message in self._held:  # else it came onto the disk meanwhile, and is sent twice
                self._held.remove(message)
        self._undeleted.update(keys)
        self._settle()

    def _try(self, write: Callable[[], None]) -> LinkError | None:
        """Only what writes shows that the disk is well."""
        try:
            write()
        except LinkError as error:
            self._failed(error)
            return error
        self.problem = ""
        return None

    def _failed(self, error: LinkError) -> None:
        if str(error) != self.problem:
            self._tell(str(error))
        self.problem = str(error)

    def _tell_dropped(self) -> None:
        """Once what waited is sent: how much of it was not."""
        lost, self._told_dropped = self.dropped - self._told_dropped, self.dropped
        if lost:
            self._tell(
                f"{lost} messages for the operator were dropped: more waited than [telemetry] outbox_mb holds"
            )


def _check(topic: str, payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise LinkError(f"{topic[:200]}: {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES} in a message")
