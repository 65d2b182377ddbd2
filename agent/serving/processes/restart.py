"""When to start a crashed worker again: a pure back-off."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

FIRST_S = 0.1  # after the first restart, which is immediate
LONGEST_S = 10.0
STABLE_S = 60.0
GIVE_UP_CRASHES = 5  # within STABLE_S
GIVEN_UP_S = 60.0


@dataclass(slots=True)
class Backoff:
    """0, then 0.1 s doubling to 10 s; every 60 s once five crashes fell within a minute; anew after a stable minute."""

    given_up: bool = False
    _started: float | None = None
    _delay_s: float = 0.0
    _crashes: deque[float] = field(default_factory=lambda: deque(maxlen=GIVE_UP_CRASHES))

    def started(self, now: float) -> None:
        """The worker serves; ``now`` in monotonic seconds."""
        self._started = now

    def crashed(self, now: float) -> float:
        """Seconds to wait before the next start; also for a start that failed."""
        if self._started is not None and now - self._started >= STABLE_S:
            self.given_up, self._delay_s = False, 0.0
            self._crashes.clear()
        self._started = None
        self._crashes.append(now)
        if len(self._crashes) == GIVE_UP_CRASHES and now - self._crashes[0] <= STABLE_S:
            self.given_up = True
        if self.given_up:
            return GIVEN_UP_S
        delay, self._delay_s = self._delay_s, min(LONGEST_S, max(FIRST_S, 2 * self._delay_s))
        return delay
