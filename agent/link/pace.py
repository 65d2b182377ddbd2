"""How fast blocks may be asked for: a token bucket. Pure; times are seconds of any steady clock.

Who asks is who limits: nothing is sent that no node asked for. What other nodes of a group asked for passes by all the
same; it cannot be held back, but counts, so that this node asks for less meanwhile.
"""

from __future__ import annotations

BURST_S = 1.0
DEBT_S = 10.0  # what passed by holds this node's own requests up for so long at most after it ended


class Pace:
    """At most ``bytes_per_s`` (None: no limit) on average; over any time one second's worth and one block more."""

    def __init__(self, bytes_per_s: float | None) -> None:
        if bytes_per_s is not None and bytes_per_s <= 0:
            raise ValueError("bytes_per_s must be more than 0")
        self._rate = bytes_per_s
        self._tokens = 0.0 if bytes_per_s is None else bytes_per_s * BURST_S
        self._at: float | None = None

    def room(self, now: float) -> float:
        """Bytes that may be asked for now, and up to one block more; not positive: none."""
        if self._rate is None:
            return float("inf")
        self._refill(now)
        return self._tokens

    def wait(self, now: float) -> float:
        """Seconds until ``room`` is positive; 0 when it is."""
        if self._rate is None or self.room(now) > 0:
            return 0.0
        return (1.0 - self._tokens) / self._rate

    def ask(self, nbytes: int, now: float) -> None:
        """Blocks of so many bytes were asked for."""
        if self._rate is not None:
            self._refill(now)
            self._tokens -= nbytes

    def pass_by(self, nbytes: int, now: float) -> None:
        """So many bytes arrived that were not asked for here."""
        if self._rate is not None:
            self._refill(now)
            self._tokens = max(self._tokens - nbytes, min(self._tokens, -DEBT_S * self._rate))

    def _refill(self, now: float) -> None:
        assert self._rate is not None
        if self._at is not None and now > self._at:
            self._tokens = min(self._tokens + (now - self._at) * self._rate, self._rate * BURST_S)
        self._at = now if self._at is None else max(now, self._at)
