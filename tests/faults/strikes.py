"""What is done to a node in a phase of a deployment."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.faults.control import Mode
from tests.faults.daemon import Broken
from tests.faults.lane import Lane
from tests.faults.processes import runs, signal_all

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
    lane.daemon.kill()
    lane.daemon.start(wait=False)


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
        lane.daemon.kill()
        lane.daemon.start(wait=False)
        lane.serves()
        return after

    return strike


def _after_a_while(lane: Lane) -> None:
    time.sleep(HOLD_S)
    lane.page.heal()


def _hang(lane: Lane, phase: str) -> Callable[[Lane], None]:
    """What the phase waits for does not answer: disk, helper, server, worker."""
    if phase == "QUEUED":
        lane.page.strike(Mode.HANG)
        return _watchdog
    if phase == "METADATA":
        helper = _helper(lane)
        signal_all(helper, signal.SIGSTOP)
        return _until_final_then(partial(signal_all, helper, signal.SIGCONT))
    if phase == "DOWNLOADING":
        assert lane.stage.server is not None
        lane.stage.server.send_signal(signal.SIGSTOP)
        return _until_final_then(partial(lane.stage.server.send_signal, signal.SIGCONT))
    if phase == "VERIFYING":
        lane.page.strike(Mode.HANG, only="/files/")
        return _until_final_then(lane.page.heal)
    stopped = [pid for pid, _ in lane.daemon.own()]
    if phase in ("SOAKING", "ROLLING_BACK"):
        stopped = stopped[-1:]  # the new version's, or what answers now
    signal_all(stopped, signal.SIGSTOP)
    return _until_final_then(partial(signal_all, stopped, signal.SIGCONT))


def _watchdog(lane: Lane) -> None:
    time.sleep(WATCHDOG_S)
    if lane.page.struck:
        lane.daemon.kill()
        lane.page.heal()
        lane.daemon.start(wait=False)
    lane.page.heal()


def _until_final_then(heal: Callable[[], object]) -> Callable[[Lane], None]:
    def work(lane: Lane) -> None:
        try:
            lane.settled()
        finally:
            heal()

    return work


def _workers(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    """All that the kernel ends when memory is out: zygotes, workers, the helper."""
    signal_all([pid for pid, _ in lane.daemon.own()])
    return lambda _: None


def _helper_killed(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    signal_all(_helper(lane))
    return lambda _: None


def _metadata_read_only(lane: Lane, _phase: str) -> Callable[[Lane], None]:
    lane.page.strike(Mode.FAIL_ALL, error=errno.EROFS, only="/state/repo/")
    return _after_a_while


def _helper(lane: Lane) -> list[int]:
    """The process that verifies metadata."""
    found = [pid for pid, _ in lane.daemon.own() if runs(pid, "agent.package.tuf.helper")]
    if len(found) != 1:
        raise Broken(f"{len(found)} helpers verify metadata")
    return found


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
OF_METADATA = (Fault("helper killed", _helper_killed), Fault("read-only metadata", _metadata_read_only))
