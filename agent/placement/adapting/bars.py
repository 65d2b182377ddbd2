"""Candidates that failed a model lately, and for how long they are left alone. Pure.

The times double, unless a candidate is only wanted for its energy: then each try has to be paid by rent (see
``decide``), and when the cause has passed one should know soon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.types import Candidate

FIRST_S, MOST_S = 10.0, 600.0
CALM = 10.0  # after so many times its last bar a candidate begins with the first again


@dataclass(frozen=True, slots=True)
class Bar:
    """``until`` then; ``forgotten``: when it counts no more; ``tries``: how often in a row it failed.
    ``passing``: for a cause that may pass unseen; ``cap``: it was left for the cap's sake."""

    until: float
    forgotten: float
    tries: int
    why: str
    passing: bool
    cap: bool = False


Bars = Mapping[
    tuple[str, Candidate | None], Bar
]  # by model and candidate; None: its return after it was shed


def barred(
    bars: Bars,
    model: str,
    candidate: Candidate | None,
    why: str,
    time: float,
    least_s: float = 0.0,
    passing: bool = False,
    paid: bool = False,
    cap: bool = False,
) -> Bars:
    """With one more, of ``least_s`` at least. ``paid``: the candidate is only wanted for its energy."""
    before = bars.get((model, candidate))
    tries = 1 + (before.tries if before is not None and time < before.forgotten else 0)
    seconds = max(least_s, min(MOST_S, FIRST_S if paid else FIRST_S * 2 ** min(tries - 1, 10)))
    bar = Bar(time + seconds, time + (1 + CALM) * seconds, tries, why, passing, cap)
    return {**bars, (model, candidate): bar}


def lifted(bars: Bars, time: float) -> Bars:
    """What may pass unseen may have passed: it may be tried again at once, as if for the first time."""
    return {
        key: replace(bar, until=min(bar.until, time), tries=0) if bar.passing else bar
        for key, bar in bars.items()
    }


def uncapped(bars: Bars, time: float) -> Bars:
    """The cap has risen: what was left for its sake is open at once."""
    return {key: replace(bar, until=min(bar.until, time)) if bar.cap else bar for key, bar in bars.items()}
