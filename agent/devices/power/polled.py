"""Meters whose sensors are slow, read by a thread: the daemon's event loop never waits for a bus or a driver.

An INA3221 waits for its conversion at each read (6.6 ms by default, longer when it averages), a rail on I2C takes about
half a millisecond, and a GPU's driver may hang.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from agent.devices.power.account import Counter, Watts
from agent.errors import MeterError

FASTEST_S, SLOWEST_S = 0.02, 0.25  # between readings: as often as joules are asked for, within these
HOLD_S = 0.5  # the newest watts are taken to go on for this long at most
STALE_S = 2.0  # a sensor without a good reading for this long is lost


class PolledMeter:
    """See ``hal.PowerMeter``. ``joules`` is as of now: the newest watts are taken to have gone on until then."""

    tag = "measured"

    def __init__(
        self,
        poller: Poller,
        rail: str,
        sums: Watts | Counter,
        read: Callable[[], tuple[Any, ...]],
        clock: Callable[[], float],
    ) -> None:
        """``read`` gives what ``sums.add`` takes after the time; MeterError when it cannot. It is tried at once."""
        self.rail = rail
        self.gap_s = SLOWEST_S  # between the last two questions
        self._poller, self._sums, self._read, self._clock = poller, sums, read, clock
        self._asked = clock()
        self._first: float | None = None  # when it was asked first
        self._shown = 0.0
        self._problem = ""
        self._take()
        self._state = sums.total, sums.last
        poller.meters.append(self)

    def poll(self) -> None:
        """Read the sensor, by the poller's thread."""
        try:
            self._take()
            self._problem = ""
        except MeterError as error:
            self._problem = str(error)
        self._state = self._sums.total, self._sums.last  # one assignment: the other thread sees both or none

    def _take(self) -> None:
        reading = self._read()
        try:
            self._sums.add(self._clock(), *reading)
        except MeterError as error:
            raise MeterError(f"{self.rail} {error}") from None

    def joules(self) -> float:
        """See ``hal.PowerMeter``."""
        now = self._clock()
        self.gap_s, self._asked = now - self._asked, now
        self._poller.start()
        good = self._first = now if self._first is None else self._first
        total, last = self._state
        if last is not None:
            good = max(good, last.time)
            total += last.watts * min(max(now - last.time, 0.0), HOLD_S)
        if now - good > STALE_S:
            raise MeterError(self._problem or f"{self.rail} shows only what cannot be; check its shunt value")
        self._shown = max(self._shown, total)
        return self._shown


class Poller:
    """Reads ``meters`` in a thread, from the first question until nobody has them any more."""

    def __init__(self) -> None:
        self.meters: list[PolledMeter] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Once."""
        if self._thread is None:
            self._thread = threading.Thread(target=_run, args=(weakref.ref(self),), name="power", daemon=True)
            self._thread.start()

    def poll(self) -> None:
        """Read every meter."""
        for meter in self.meters:
            meter.poll()

    @property
    def pace_s(self) -> float:
        """From one reading to the next."""
        pace = min((meter.gap_s for meter in self.meters), default=SLOWEST_S)
        return min(max(pace, FASTEST_S), SLOWEST_S)


def _run(poller: weakref.ref[Poller]) -> None:
    while (alive := poller()) is not None:
        started = time.monotonic()
        alive.poll()
        took = time.monotonic() - started
        rest_s = max(alive.pace_s - took, took)  # the bus is for others too
        del alive
        time.sleep(rest_s)
