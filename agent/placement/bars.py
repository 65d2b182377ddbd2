"""Candidates that failed a model lately, and for how long they are left alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.types import Candidate

FIRST_S, MOST_S = 10.0, 600.0
CALM = 10.0  # after so many times its last bar a candidate begins with the first again


@dataclass(frozen=True, slots=True)
class Bar:
    """``until`` then; the next one lasts twice the ``seconds`` of this."""

    until: float
    seconds: float
    why: str


Bars = Mapping[
    tuple[str, Candidate | None], Bar
]  # by model and candidate; None: its return after it was shed


def barred(bars: Bars, model: str, candidate: Candidate | None, why: str, time: float) -> Bars:
    """With one more."""
    before, seconds = bars.get((model, candidate)), FIRST_S
    if before is not None and time < before.until + CALM * before.seconds:
        seconds = min(MOST_S, 2 * before.seconds)
    return {**bars, (model, candidate): Bar(time + seconds, seconds, why)}
