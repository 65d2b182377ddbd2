"""Every fault in every phase of a deployment, as soon as the phase is journalled."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from agent.deploy.ledger import HEALING
from agent.deploy.standing import MAX_STARTS
from tests.faults.control import Mode
from tests.faults.lane import FINAL, Broken, Lane, signal_all
from tests.faults.launcher import PHASES

YEAR_S = 365.0 * 86_400
HOLD_S = 1.5  # how long a disk stays full
WATCHDOG_S = 1.0  # systemd's is longer
FLAPS_S = (0.1, 2.3, 2.6)


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike`` does it while the daemon waits in the phase; what it returns ends it, once the daemon went on.

    ``down``: nobody serves for a while.
    """

    name: str
    strike: Callable[[Lane, str], Callable[[Lane], None] | None]
    down: bool = False


def _kill(lane: Lane, _phase: str) -> None:
    lane.kill()
    lane.start(wait=False)


def _error(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    lane.page.strike(Mode.FAIL_ONCE, error=errno.EIO)
    return lambda _: None


def _full(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    lane.page.strike(Mode.FAIL_ALL, error=errno.ENOSPC)
    return _after_a_while


def _read_only(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    lane.page.strike(Mode.FAIL_ALL, error=errno.EROFS, only="state.db")
    return _after_a_while


def _all_read_only(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    lane.page.strike(Mode.FAIL_ALL, error=errno.EROFS)
    return _after_a_while


def _restarted(
    fault: Callable[[Lane, str], Callable[[Lane], None]],
) -> Callable[[Lane, str], Callable[[Lane], None]]:
    """The daemon dies of it, so it starts with the fault still there, and serves."""

    def strike(lane: Lane, phase: str) -> Callable[[Lane], None]:
        after = fault(lane, phase)
        lane.kill()
        lane.start(wait=False)
        lane.serves()
        return after

    return strike


def _after_a_while(lane: Lane) -> None:
    time.sleep(HOLD_S)
    lane.page.heal()


def _hang(lane: Lane, phase: str) -> Callable[[Lane], None]:
    """What the phase waits for does not answer: disk, server, worker."""
    if phase == "QUEUED":
        lane.page.strike(Mode.HANG)
        return _watchdog
    if phase == "DOWNLOADING":
        assert lane.stage.server is not None
        lane.stage.server.send_signal(signal.SIGSTOP)
        return _until_final_then(partial(lane.stage.server.send_signal, signal.SIGCONT))
    if phase == "VERIFYING":
        lane.page.strike(Mode.HANG, only="/files/")
        return _until_final_then(lane.page.heal)
    stopped = [pid for pid, _ in lane.own()]
    if phase in ("SOAKING", "ROLLING_BACK"):
        stopped = stopped[-1:]  # the new version's, or what answers now
    signal_all(stopped, signal.SIGSTOP)
    return _until_final_then(partial(signal_all, stopped, signal.SIGCONT))


def _watchdog(lane: Lane) -> None:
    time.sleep(WATCHDOG_S)
    if lane.page.struck:
        lane.kill()
        lane.page.heal()
        lane.start(wait=False)
    lane.page.heal()


def _until_final_then(heal: Callable[[], object]) -> Callable[[Lane], None]:
    def work(lane: Lane) -> None:
        try:
            lane.settled()
        finally:
            heal()

    return work


def _workers(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    """All that the kernel ends when memory is out: zygotes and workers."""
    signal_all([pid for pid, _ in lane.own()])
    return lambda _: None


def _broker(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    lane.broker.kill()

    def work(lane: Lane) -> None:
        time.sleep(0.3)
        lane.broker.start()

    return work


def _flapping(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    def work(lane: Lane) -> None:
        for pause in FLAPS_S:
            time.sleep(pause)
            lane.proxy.cut()

    return work


def _clock(off_s: Callable[[], float]) -> Callable[[Lane, str], Callable[[Lane], None]]:
    """Until the deployment is over and, in between, a restart."""

    def strike(lane: Lane, _phase: str) -> Callable[[Lane], None]:
        lane.page.set_clock(off_s())
        return _until_final_then(lambda: lane.page.set_clock(0.0))

    return strike


FAULTS = (
    Fault("kill -9", _kill, down=True),
    Fault("error", _error),
    Fault("hang", _hang, down=True),
    Fault("workers killed", _workers, down=True),
    Fault("ENOSPC", _full),
    Fault("read-only database", _read_only),
    Fault("start on full disk", _restarted(_full), down=True),
    Fault("start read-only", _restarted(_read_only), down=True),
    Fault("start, all read-only", _restarted(_all_read_only), down=True),
    Fault("broker killed", _broker),
    Fault("link flapping", _flapping),
    Fault("clock at 1970", _clock(lambda: 100.0 - time.time())),
    Fault("clock +1 year", _clock(lambda: YEAR_S)),
    Fault("clock -1 year", _clock(lambda: -YEAR_S)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A cell of the table. ``play``: the deployment's state in the end; Broken says what should not be."""

    fault: str
    phase: str
    play: Callable[[Lane], str]


def cases(fault: str = "", phase: str = "") -> list[Case]:
    """Those whose names contain these."""
    found = [Case(f.name, p, partial(_in_phase, fault=f, phase=p)) for p in PHASES for f in FAULTS]
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
        lane.go_on()
    return state


def _reboot_loop(lane: Lane) -> str:
    """The daemon dies again and again soon after its start: the version before serves."""
    old = lane.serves()
    _succeeds(lane)
    new = lane.wanted
    for _ in range(MAX_STARTS):
        lane.kill()
        lane.start()
        if lane.serves() != new:
            raise Broken(f"{old} serves too early: {lane.model()}")
    lane.kill()
    lane.start()
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
    lane.stopped()
    if phase == "ROLLING_BACK":
        lane.page.stop_in(PHASES.index(phase))
        signal_all([lane.own()[-1][0]])  # the new version's worker
        lane.go_on()
        lane.stopped()
    after = fault.strike(lane, phase)
    lane.go_on()
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
    lane.kill()
    lane.start()
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
