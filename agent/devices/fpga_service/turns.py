"""Whose turn it is on the one core: decisions without a clock and without hardware. ``now``: seconds that only grow.

A turn is for one inference: a chain that loads weights which stay on the chip, then its own. Without others that wait
it goes on for ever. Who waits is served in the order of asking.
"""

from __future__ import annotations

import enum
import math

IDLE_S = (
    0.25  # a client that leaves the core alone for so long, though it has not fetched outputs, loses its turn
)
CONTESTED_S = 5.0  # no turn lasts longer while others wait: a chain that still runs then is stopped
TURN_S = 20.0  # a client waits no longer


class Phase(enum.Enum):
    """Of the turn: ``OVER``: others may have it at once, because nothing of the holder's is on the chip, or because it
    has fetched what the last chain computed."""

    OVER = enum.auto()
    TAKEN = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


class Turns:
    """``holder``: the client whose turn it is. Clients are numbers."""

    def __init__(self) -> None:
        self.holder: int | None = None
        self.phase = Phase.OVER
        self._since = 0.0  # when the phase began
        self._contested = math.inf  # since when somebody waits for this turn to end
        self._queue: list[int] = []

    def ask(self, client: int, now: float) -> float:
        """0: it has the turn now. Otherwise it waits, for so many seconds at least: it asks again then, and when the
        phase has changed."""
        if client == self.holder and not (self.phase is Phase.OVER and self._queue):
            return 0.0
        if client not in self._queue:
            self._queue.append(client)
            self._contested = min(self._contested, now)
        if self._queue[0] != client:
            return math.inf
        left = self._free_at() - now
        if left > 0:
            return left
        del self._queue[0]
        self.holder = client
        self._contested = now if self._queue else math.inf
        self._enter(Phase.TAKEN, now)
        return 0.0

    def started(self, now: float) -> None:
        """The holder's chain runs."""
        self._enter(Phase.RUNNING, now)

    def ended(self, now: float) -> None:
        """The core has been seen at its end."""
        if self.phase is Phase.RUNNING:
            self._enter(Phase.ENDED, now)

    def fetched(self) -> None:
        """The holder reads a buffer: after a chain these are the outputs."""
        if self.phase is Phase.ENDED:
            self.phase = Phase.OVER

    def cleared(self) -> None:
        """The holder has reset the core."""
        self.phase = Phase.OVER

    def withdraw(self, client: int) -> None:
        """It waits no more."""
        if client in self._queue:
            self._queue.remove(client)
            if not self._queue:
                self._contested = math.inf

    def leave(self, client: int) -> None:
        """It neither waits for the turn nor has it any more."""
        self.withdraw(client)
        if client == self.holder:
            self.holder, self.phase = None, Phase.OVER

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase, self._since = phase, now

    def _free_at(self) -> float:
        if self.phase is Phase.OVER:
            return -math.inf
        last = self._contested + CONTESTED_S
        return last if self.phase is Phase.RUNNING else min(self._since + IDLE_S, last)
