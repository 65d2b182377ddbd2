"""Candidates that failed a model lately, and for how long they are left alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.types import Candidate

STEP_S, MOST_S = 10.0, 600.0  # how much longer each bar is than the one before, and the longest
CALM = 10.0  # after so many times its last bar a candidate begins with the first again


@dataclass(frozen=True, slots=True)
class Bar:
    """``until`` then; ``tries``: how often in a row it failed.

    The times grow in steps rather than twofold: probing is paid by rent (see ``rental``), and when the cause has passed
    one should know soon.
    """

    until: float
    tries: int
    why: str

    @property
    def forgotten(self) -> float:
        """When it counts no more."""
        return self.until + CALM * _seconds(self.tries)


def _seconds(tries: int) -> float:
    return min(MOST_S, STEP_S * tries)


Bars = Mapping[
    tuple[str, Candidate | None], Bar
]  # by model and candidate; None: its return after it was shed


def barred(bars: Bars, model: str, candidate: Candidate | None, why: str, time: float) -> Bars:
    """With one more."""
    before = bars.get((model, candidate))
    tries = 1 + (before.tries if before is not None and time < before.forgotten else 0)
    return {**bars, (model, candidate): Bar(time + _seconds(tries), tries, why)}


def lifted(bars: Bars, time: float) -> Bars:
    """What kept candidates away may have passed: they may be tried again at once, as if for the first time."""
    return {key: replace(bar, until=min(bar.until, time), tries=0) for key, bar in bars.items()}
