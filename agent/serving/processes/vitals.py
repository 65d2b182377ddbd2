"""Signs of life of a worker: a page of memory that it shares with the daemon, and how the daemon reads them.

The page, native byte order: float64 beat (monotonic seconds), float64 seconds that a run usually takes, 16 float64 with
the start of the run that each instance does now (0: none), float64 1 while one of them builds something; from byte 1024
on, the state of each connection (``Seat``).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from dataclasses import dataclass

from agent.serving.processes.building import BUILD_S

INSTANCES = 16
SLOTS = 384  # connections of one worker
_PAGE = 4096
_BEAT, _USUAL, _RUNS = 0, 1, 2
_BUILDS = _RUNS + INSTANCES
_STATES = 1024
_NEWEST = 0.125  # weight of the newest run in the usual time
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Vitals:
    """One end of the page. The worker writes; the daemon believes nothing that it reads to be sensible."""

    def __init__(self, fd: int) -> None:
        """``fd`` belongs to this object; OSError or ValueError when it is no such page."""
        self.fd = fd
        self._map = mmap.mmap(fd, _PAGE)
        self._view = memoryview(self._map)
        self._floats = self._view[: 8 * (_BUILDS + 1)].cast("d")
        self.states = self._view[_STATES : _STATES + SLOTS]

    @classmethod
    def create(cls) -> Vitals:
        """A page of zeros; OSError when there is no memory or no descriptor to be had."""
        fd = os.memfd_create("vitals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _PAGE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)  # a page cut off would be SIGBUS for the other side
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Unmap the page and close its descriptor; once."""
        for view in (self.states, self._floats, self._view):
            view.release()
        self._map.close()
        os.close(self.fd)

    # the worker's side

    def beat(self) -> None:
        """The event loop is alive."""
        self._floats[_BEAT] = time.monotonic()

    def run_started(self, instance: int = 0) -> None:
        """A run begins on one of the instances."""
        self._floats[_RUNS + instance] = time.monotonic()

    def run_ended(self, instance: int = 0) -> None:
        """It ended, well or not. An inline run held the loop up, so that this is a beat too."""
        floats, now = self._floats, time.monotonic()
        wall, usual = now - floats[_RUNS + instance], floats[_USUAL]
        if not floats[_BUILDS]:
            floats[_USUAL] = usual + _NEWEST * (wall - usual) if usual else wall
        floats[_BEAT] = now
        floats[_RUNS + instance] = 0.0
        if not self.running_since:
            floats[_BUILDS] = 0.0

    def build_began(self) -> None:
        """A runtime builds something before it goes on with a run, which is no usual one."""
        self._floats[_BUILDS] = 1.0

    # the daemon's side

    @property
    def last_beat(self) -> float:
        return self._floats[_BEAT]

    @property
    def usual_s(self) -> float:
        """Seconds that a run took lately, golden runs included; 0 before the first."""
        return self._floats[_USUAL]

    @property
    def building(self) -> bool:
        """Something is built for a run that goes on."""
        return bool(self._floats[_BUILDS])

    @property
    def running_since(self) -> float:
        """Start of the oldest run that goes on; 0 when there is none."""
        return min((start for start in self._floats[_RUNS : _RUNS + INSTANCES] if start), default=0.0)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: between two looks; without a beat, and of one run, until a worker is doubted, then killed as hung.

    A run may always last ``factor`` times the usual one, and until it is killed BUILD_S when it builds something.
    """

    look_s: float = 1.0
    doubt_s: float = 3.0
    silent_s: float = 10.0
    run_s: float = 30.0
    factor: float = 20.0


PATIENCE = Patience()


@dataclass(slots=True)
class Pulse:
    """What looks at a worker's page add up to.

    A look counts for two periods at most: a box or a service that was frozen as a whole has no hung workers.
    """

    patience: Patience
    silent_s: float = 0.0
    run_s: float = 0.0
    _usual_s: float = 0.0
    _building: bool = False
    _beat: float = -1.0
    _run: float = 0.0
    _looked: float | None = None

    def look(self, now: float, vitals: Vitals) -> None:
        """Take note of the page; ``now`` in monotonic seconds of the daemon."""
        gap = 0.0 if self._looked is None else min(now - self._looked, 2 * self.patience.look_s)
        beat, run = vitals.last_beat, vitals.running_since
        self.run_s = self.run_s + gap if run and run == self._run else 0.0
        self.silent_s = self.silent_s + gap if beat == self._beat else 0.0
        self._looked, self._beat, self._run, self._usual_s = now, beat, run, vitals.usual_s
        self._building = vitals.building

    @property
    def hung(self) -> str:
        """Why the worker must be killed; empty when it need not."""
        return self._late(self.patience.silent_s, BUILD_S if self._building else self.patience.run_s)

    @property
    def doubtful(self) -> str:
        """Why the worker should not get requests now; empty when it is well.

        Whose loop is alive during a long run answers for itself.
        """
        doubt_s = self.patience.doubt_s
        return self._late(doubt_s, doubt_s) if self.silent_s >= doubt_s else ""

    def _late(self, silent_s: float, run_s: float) -> str:
        if self._run and self.run_s >= max(run_s, self.patience.factor * self._usual_s):
            return f"a run has lasted {self.run_s:.0f} s"
        if not self._run and self.silent_s >= silent_s:
            return f"no sign of life for {self.silent_s:.0f} s"
        return ""
