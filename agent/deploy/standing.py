"""Which versions stayed up. One under which the daemon dies again and again soon after its start, before it ever stayed
up, is what the machine or the daemon dies of: the version before it serves then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from agent.errors import StoreError

log = logging.getLogger("deploy")
STAND_S = 60.0  # in service so long, a version stays
MAX_STARTS = 3  # that ended before that

SCHEMA = """
CREATE TABLE IF NOT EXISTS standing (model TEXT PRIMARY KEY, digest TEXT NOT NULL, starts INTEGER NOT NULL,
  stood INTEGER NOT NULL);
"""


class Rows(Protocol):
    """What is needed of a cursor."""

    def fetchone(self) -> tuple[int, int] | None: ...


class Standings:
    """The newest version of each model that the daemon was started with. ``run`` raises StoreError; what cannot be
    written is not known later, which keeps a version that would have gone."""

    def __init__(self, run: Callable[..., Rows], clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._since: dict[tuple[str, str], float] = {}
        self._stood: set[tuple[str, str]] = set()
        self._counted: set[tuple[str, str]] = set()

    def starting(self, model: str, digest: str) -> bool:
        """The daemon is about to start the model; False when it died too often of, or beside, this version."""
        row = self._run(
            "SELECT starts, stood FROM standing WHERE model = ? AND digest = ?", model, digest
        ).fetchone()
        starts, stood = row or (0, 0)
        if stood:
            self._stood.add((model, digest))
            return True
        self._counted.add((model, digest))
        try:
            self._put(model, digest, starts + 1, 0)
        except StoreError as error:
            log.error("%s: %s", model, error, extra={"model": model})
        return starts < MAX_STARTS

    def look(self, in_service: Mapping[str, str]) -> None:
        """Digests in service, by model: note who has stayed up by now. To be called again and again."""
        now = self._clock()
        self._since = {item: self._since.get(item, now) for item in in_service.items()}
        for item, since in self._since.items():
            if now - since >= STAND_S and item not in self._stood:
                try:
                    self._put(*item, 0, 1)
                except StoreError:  # the next look tries again
                    return
                self._stood.add(item)

    def forgive(self) -> None:
        """The daemon stops in order: this start says nothing."""
        for model, digest in self._counted - self._stood:
            try:
                self._run("UPDATE standing SET starts = 0 WHERE model = ? AND digest = ?", model, digest)
            except StoreError as error:
                log.error("%s: %s", model, error, extra={"model": model})

    def _put(self, model: str, digest: str, starts: int, stood: int) -> None:
        self._run("INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?)", model, digest, starts, stood)
