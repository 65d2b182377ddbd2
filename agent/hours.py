"""Hours of the day, e.g. those in which models may be downloaded. Pure; in the node's local time.

Only the time of day counts, looked at again and again: whatever daylight saving or a clock that is set does meanwhile,
the next look is right. Nothing is computed ahead.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DAY = 24 * 60  # minutes
PLAUSIBLE_TIME = 1_767_225_600.0  # 2026-01-01: this code is younger, so an earlier clock was never set
CLOCK_SLACK_S = 3600.0  # an operator's clock may be ahead of ours
CLOCK_GRACE_S = 600.0  # for the time to be set after a start
LONGEST_S = (
    49 * 3600.0
)  # an hour that daylight saving leaves out comes a day later; more is a clock that jumps about
_SPAN = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Span:
    """From minute ``start`` of the day until before ``end``, over midnight when that is not more."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Span:
        """``22:00-06:00``; ValueError for anything else."""
        match = _SPAN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:40]!r} must be like 22:00-06:00")
        hour, minute, end_hour, end_minute = map(int, match.groups())
        start, end = hour * 60 + minute, end_hour * 60 + end_minute
        if minute > 59 or end_minute > 59 or start >= DAY or end > DAY:
            raise ValueError(f"{text} names a time that no day has")
        if start == end:
            raise ValueError(f"{text} is empty; give no hours at all for every hour")
        return cls(start, end)

    def holds(self, minute: int) -> bool:
        """Whether minute ``minute`` of the day lies in it."""
        return (minute - self.start) % DAY < (self.end - self.start) % DAY or self.end - self.start == DAY


class Look(enum.Enum):
    """OPEN; CLOSED: other hours; UNKNOWN: the clock was never set."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"


def look(spans: Iterable[Span], minute: int, now: float, proven: float) -> Look:
    """``now``: the clock, in Unix seconds, and ``minute`` of the day that it shows; ``proven``: a time that has passed
    for sure, because a trusted message was written then."""
    if now < max(PLAUSIBLE_TIME, proven - CLOCK_SLACK_S):
        return Look.UNKNOWN
    return Look.OPEN if any(span.holds(minute) for span in spans) else Look.CLOSED


def patience_s(found: Look) -> float:
    """After how many seconds in a row of this finding one goes ahead nevertheless: no clock may block for ever."""
    return {Look.OPEN: 0.0, Look.UNKNOWN: CLOCK_GRACE_S, Look.CLOSED: LONGEST_S}[found]


def next_start(spans: Sequence[Span], minute: int) -> str:
    """``22:00``, the first beginning after minute ``minute`` of the day."""
    start = min((span.start for span in spans), key=lambda start: (start - minute - 1) % DAY)
    return f"{start // 60:02}:{start % 60:02}"
