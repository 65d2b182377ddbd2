"""kill -9 at random instants of deployments and start-ups: after so many milliseconds, or at so many-th call that
changes a file, before it or after half of it."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass, field

from tests.faults.control import Mode
from tests.faults.daemon import Broken
from tests.faults.lane import FINAL, Lane
from tests.system.stage import StageError

PATIENCE_S = 30.0
RESTARTS = 0.15  # of the kills fall into a start-up that goes on with a deployment


@dataclass(slots=True)
class Tally:
    """What became of the kills. ``usual_s``, ``usual_calls``: of a deployment that nothing breaks."""

    done: int = 0
    broken: list[str] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    usual_s: float = 0.5
    usual_calls: int = 120


def measure(lane: Lane, tally: Tally) -> None:
    """What a deployment takes that nothing breaks."""
    calls, began = lane.page.calls, time.monotonic()
    lane.deploy()
    if lane.settled().state != "SUCCEEDED":
        raise Broken(f"without a fault: {lane.model()}")
    tally.usual_s, tally.usual_calls = time.monotonic() - began, lane.page.calls - calls


def kills(lane: Lane, count: int, seed: int, tally: Tally) -> None:
    """``count`` more of them in ``tally``; one that leaves something broken begins the next on a node made good."""
    chance = random.Random(seed)
    for number in range(count):
        what = ""
        try:
            what = _one(lane, chance, tally)
        except (Broken, StageError) as error:
            tally.broken.append(f"kill {number} (seed {seed}) {what}: {error}")
            print(f"\nBROKEN {tally.broken[-1]}", file=sys.stderr, flush=True)
            mend(lane)
        tally.done += 1


def _one(lane: Lane, chance: random.Random, tally: Tally) -> str:
    old = lane.serves()
    in_start = chance.random() < RESTARTS
    if in_start:
        lane.daemon.kill()
    by_call = chance.random() < 0.6
    if by_call:
        how = chance.choice([Mode.KILL_BEFORE, Mode.KILL_AFTER])
        lane.page.strike(how, at=chance.randint(1, int(tally.usual_calls * 0.9)))
    new = lane.deploy()
    if in_start:
        lane.daemon.start(wait=False)
    if by_call:
        _wait_for_the_strike(lane)
    else:
        time.sleep(chance.uniform(0, tally.usual_s * 0.9))
    lane.daemon.kill()
    lane.page.heal()
    rows = lane.journalled()
    where = rows[-1][3] or rows[-1][2] if rows and rows[-1][1] == new else "before"
    if rows and rows[-1][1] == new and rows[-1][2] in FINAL:
        where = "after"
    tally.phases[where] = tally.phases.get(where, 0) + 1
    lane.daemon.start(wait=False)
    first = lane.serves()
    if first not in (old, new):
        raise Broken(f"killed in {where}: {first} serves, neither {old} nor {new}")
    model = lane.check({old, new})
    tally.states[model.state] = tally.states.get(model.state, 0) + 1
    if model.state != "SUCCEEDED":
        _deploys_again(lane)
    open_ones = [row for row in lane.journalled() if row[2] not in FINAL]
    if open_ones:
        raise Broken(f"killed in {where}: final, but the journal has {open_ones}")
    lane.clean()
    return where


def _wait_for_the_strike(lane: Lane) -> None:
    """Until the shim has killed it, or the deployment has ended without that many calls."""
    deadline = time.monotonic() + PATIENCE_S
    while lane.daemon.alive() and time.monotonic() < deadline:
        model = None if lane.page.struck else lane.model()
        if model is not None and model.version == lane.wanted and model.state in FINAL:
            return
        time.sleep(0.02)


def _deploys_again(lane: Lane) -> None:
    """The next deployment succeeds."""
    lane.deploy()
    model = lane.check({lane.wanted})
    if model.state != "SUCCEEDED":
        raise Broken(f"the next deployment: {model}")


def mend(lane: Lane) -> None:
    """Begin anew as well as may be."""
    lane.page.heal()
    lane.page.stop_in()
    lane.daemon.kill()
    lane.daemon.start()
    lane.deploy()
    lane.settled()
