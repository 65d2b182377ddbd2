"""What is let through of a stream of messages. Pure but for its own state."""

from __future__ import annotations


class RateLimit:
    """At most ``rate_hz`` messages a second, and one more at any time: a sensor at just that rate, whose messages come
    up to a period early, loses none. None: no limit. (The generic cell rate algorithm of ITU-T I.371.)"""

    def __init__(self, rate_hz: float | None) -> None:
        self._period_s = 0.0 if rate_hz is None else 1.0 / rate_hz
        self._next = float("-inf")  # when a message would be exactly in time

    def allows(self, now: float) -> bool:
        """True, and counted, when a message at ``now`` (monotonic seconds) is within the rate."""
        due = max(self._next, now)
        if due - now > self._period_s:
            return False
        self._next = due + self._period_s
        return True
