"""Every fault in every phase of a deployment, as soon as the phase is journalled."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from agent.deploy.ledger import HEALING
from agent.deploy.standing import MAX_STARTS
from tests.faults.daemon import Broken
from tests.faults.lane import FINAL, Lane
from tests.faults.launcher import PHASES
from tests.faults.processes import signal_all
from tests.faults.strikes import FAULTS, OF_METADATA, Fault


@dataclass(frozen=True, slots=True)
class Case:
    """A cell of the table. ``play``: the deployment's state in the end; Broken says what should not be."""

    fault: str
    phase: str
    play: Callable[[Lane], str]


def cases(fault: str = "", phase: str = "") -> list[Case]:
    """Those whose names contain these."""
    found = [Case(f.name, p, partial(_in_phase, fault=f, phase=p)) for p in PHASES for f in FAULTS]
    found += [Case(f.name, "METADATA", partial(_in_phase, fault=f, phase="METADATA")) for f in OF_METADATA]
    found.append(Case("reboot loop", "in service", _reboot_loop))
    return [case for case in found if fault in case.fault and phase in case.phase]


def _in_phase(lane: Lane, fault: Fault, phase: str) -> str:
    old = lane.serves()
    try:
        with _watching(lane, fault.down or phase == "ROLLING_BACK") as new_or_old:
            state = _strike(lane, fault, phase, old, new_or_old)
        _remembers(lane)
        _deploys_again(lane)
    finally:
        lane.page.heal()
        lane.page.stop_in()
        lane.page.set_clock(0.0)
        lane.daemon.go_on()
    return state


def _reboot_loop(lane: Lane) -> str:
    """The daemon dies again and again soon after its start: the version before serves."""
    old = lane.serves()
    _succeeds(lane)
    new = lane.wanted
    for _ in range(MAX_STARTS):
        lane.daemon.kill()
        lane.daemon.start()
        if lane.serves() != new:
            raise Broken(f"{old} serves too early: {lane.model()}")
    lane.daemon.kill()
    lane.daemon.start()
    model = lane.check({old})
    if model.state != "FAILED" or "again" not in model.why:
        raise Broken(f"went back, but says {model}")
    _deploys_again(lane)
    return model.state


def _strike(lane: Lane, fault: Fault, phase: str, old: str, allowed: set[str]) -> str:
    lane.page.stop_in(PHASES.index("SOAKING" if phase == "ROLLING_BACK" else phase))
    new = lane.next_version()
    allowed |= {old, new}
    lane.deploy(new)
    lane.daemon.stopped()
    if phase == "ROLLING_BACK":
        lane.page.stop_in(PHASES.index(phase))
        signal_all([lane.daemon.own()[-1][0]])  # the new version's worker
        lane.daemon.go_on()
        lane.daemon.stopped()
    after = fault.strike(lane, phase)
    lane.daemon.go_on()
    if after is not None:
        after(lane)
    return lane.check({old, new}).state


def _remembers(lane: Lane) -> None:
    """What was final is so on the disk and after a restart too, and the same version serves; but a start tries again
    what may have healed meanwhile."""
    deadline = time.monotonic() + 45
    while open_ones := [row for row in lane.journalled() if row[2] not in FINAL]:
        if time.monotonic() > deadline:
            raise Broken(f"final, but the journal has {open_ones}")
        time.sleep(0.2)
    before, known = lane.model(), len(lane.journalled())
    version = lane.serves()
    lane.daemon.kill()
    lane.daemon.start()
    again = lane.serves()
    if before is None or before.state == "TIMED_OUT" or before.why.startswith(HEALING):
        lane.check({version, lane.wanted})
        return
    after = lane.check({version})
    if again != version or (before.state, before.version) != (after.state, after.version):
        raise Broken(f"before a restart {version}, {before}; after it {again}, {after}")
    if len(lane.journalled()) != known:
        raise Broken(f"a restart began a deployment: {lane.journalled()[known:]}")


def _deploys_again(lane: Lane) -> None:
    _succeeds(lane)
    lane.clean()


def _succeeds(lane: Lane) -> None:
    lane.deploy()
    model = lane.check({lane.wanted})
    if model.state != "SUCCEEDED":
        raise Broken(f"without a fault: {model}")


@contextlib.contextmanager
def _watching(lane: Lane, down: bool) -> Iterator[set[str]]:
    """A client asks all the time: only versions put into the set may answer, and unless the fault ends the daemon or
    workers (``down``), every request is answered."""
    allowed: set[str] = set()
    stop, wrong = threading.Event(), []

    def ask() -> None:
        while not stop.wait(0.05):
            try:
                version = lane.answer()
            except OSError as error:
                if not down:
                    wrong.append(f"a request was not answered: {error}")
            except Broken as error:
                wrong.append(str(error))
            else:
                if allowed and version not in allowed:
                    wrong.append(f"{version} answered")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield allowed
    finally:
        stop.set()
        thread.join()
    if wrong:
        raise Broken(f"{len(wrong)} times: {wrong[0]}")
