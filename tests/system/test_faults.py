"""A bounded part of ``make test-faults``: some faults in some phases, and a few kills at random instants."""

from __future__ import annotations

from pathlib import Path

from tests.faults.__main__ import play
from tests.faults.matrix import FAULTS

PHASE_OF = {
    "kill -9": ("ACTIVATING", "ROLLING_BACK"),
    "error": ("SOAKING",),
    "workers killed": ("PROFILING",),
    "ENOSPC": ("DOWNLOADING",),
    "read-only database": ("VERIFYING",),
    "start, all read-only": ("SOAKING",),
    "clock at 1970": ("QUEUED",),
}
KILLS = 6


def test_nothing_is_broken(tmp_path: Path) -> None:
    cases = [(fault, phase) for fault in FAULTS for phase in PHASE_OF.get(fault.name, ())]
    run = play(tmp_path, cases, KILLS, seconds=600, seed=20)
    assert [*run.broken, *run.tally.broken] == []
    assert run.done == sum(map(len, PHASE_OF.values())) + KILLS
