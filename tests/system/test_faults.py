"""A bounded part of ``make test-faults``: some faults in some phases, and a few kills at random instants."""

from __future__ import annotations

from pathlib import Path

from tests.faults.__main__ import play
from tests.faults.matrix import cases

CHOSEN = (
    ("helper killed", "METADATA"),
    ("clock +1 year", "QUEUED"),
    ("kill -9", "ACTIVATING"),
    ("kill -9", "ROLLING_BACK"),
    ("error", "SOAKING"),
    ("workers killed", "PROFILING"),
    ("ENOSPC", "DOWNLOADING"),
    ("read-only database", "VERIFYING"),
    ("start, all read-only", "SOAKING"),
    ("clock at 1970", "QUEUED"),
    ("reboot loop", "in service"),
)
KILLS = 6


def test_nothing_is_broken(tmp_path: Path) -> None:
    chosen = [case for fault, phase in CHOSEN for case in cases(fault, phase)]
    run = play(tmp_path, chosen, KILLS, seconds=600, seed=20)
    assert [*run.broken, *run.tally.broken] == []
    assert run.done == len(CHOSEN) + KILLS
