"""What the node's meters show while something runs, or nothing does."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agent.errors import MeterError
from agent.hal import PowerMeter
from agent.placement.profile.values import Bracket

METER_PERIOD_S = (
    0.02  # between readings: sensors that show watts are integrated, and a sensor's new value is dated
)
FRESH = 3  # new values of each meter that a bracket waits for,
MORE_S = 1.0  # for at most this long
MAX_METER_W = 1e4  # of one meter between two readings: more is a glitch
WINDOWS = 10  # at most, that a bracket is told in
Clock = Callable[[], float]


def steady(clock: Clock) -> Clock:
    """``clock`` without its steps back: time stands still then."""
    last = clock()
    passed = 0.0

    def now() -> float:
        nonlocal last, passed
        moment = clock()
        passed += max(0.0, moment - last)
        last = moment
        return passed

    return now


async def idle(meters: Sequence[PowerMeter], seconds: float, clock: Clock) -> Bracket | None:
    """What the meters show while nothing is asked for; longer than ``seconds`` where a meter is slow."""
    counted = Counted(meters, clock)
    end = clock() + seconds
    while (now := clock()) < end or (counted.news < FRESH and now < end + MORE_S):
        await asyncio.sleep(METER_PERIOD_S)
        counted.read()
    return counted.bracket()


@contextmanager
def watching(meters: Sequence[PowerMeter], clock: Clock) -> Iterator[Counted]:
    """What the meters count while the block lasts. In a coroutine."""
    counted, loop = Counted(meters, clock), asyncio.get_running_loop()

    handles: list[asyncio.TimerHandle] = []

    def read() -> None:
        handles[:] = [loop.call_later(METER_PERIOD_S, read)]
        counted.read()

    read()
    try:
        yield counted
    finally:
        handles[0].cancel()
        counted.read()


class _Seen:
    """What one meter showed: at the start, then every new value, as (time, joules).

    A sensor has something new only now and then, and its reading at the start may be as old as it is slow. So its
    watts are those between two new values where there were two.
    """

    def __init__(self, time: float, joules: float) -> None:
        self.start = self.last = (time, joules)
        self.times: list[float] = []
        self.values: list[float] = []

    def show(self, time: float, joules: float) -> None:
        if joules != self.last[1]:
            self.last = time, joules
            self.times.append(time)
            self.values.append(joules)

    def watts(self, until: float) -> float:
        if len(self.times) < 2:
            (then, before), (now, joules) = self.start, (until, self.last[1])
        else:
            (then, before), (now, joules) = (self.times[0], self.values[0]), self.last
        return (joules - before) / (now - then)

    def joules_at(self, time: float) -> float:
        """Between two new values as if power was constant."""
        index = min(max(bisect_right(self.times, time), 1), len(self.times) - 1)
        (then, now), (before, after) = self.times[index - 1 : index + 1], self.values[index - 1 : index + 1]
        return before + (after - before) * (time - then) / (now - then)


class Counted:
    """What meters have counted since this was made. One reading that fails or makes no sense spoils it all: NaN,
    a counter that went back, more than MAX_METER_W since the reading before."""

    def __init__(self, meters: Sequence[PowerMeter], clock: Clock) -> None:
        self._meters, self._clock = meters, clock
        self._started = self._time = clock()
        self._seen = [_Seen(self._started, joules) for joules in self._joules()]
        self._spoilt = not self._seen

    def read(self) -> None:
        """To be called often: sensors that show watts are integrated between readings."""
        joules, now = self._joules(), self._clock()
        # Counters step: between two readings in quick succession a step of a whole period may fall.
        most = MAX_METER_W * max(now - self._time, 0.1)
        steps = [value - seen.last[1] for seen, value in zip(self._seen, joules, strict=False)]
        self._spoilt = self._spoilt or not joules or not all(0 <= step <= most for step in steps)
        if not self._spoilt and now > self._time:
            for seen, value in zip(self._seen, joules, strict=True):
                seen.show(now, value)
        self._time = max(now, self._time)

    @property
    def news(self) -> float:
        """New values that every meter has shown at least; infinite when there is nothing to wait for."""
        return math.inf if self._spoilt else min(len(seen.times) for seen in self._seen)

    def bracket(self) -> Bracket | None:
        """Until the last reading; None when it is spoilt or took no time."""
        if self._spoilt or self._time <= self._started:
            return None
        watts = sum(seen.watts(self._time) for seen in self._seen)
        return Bracket(watts, self._time - self._started, self._windows())

    def _windows(self) -> tuple[float, ...]:
        """Each about as long as the slowest meter takes for a new value, or longer."""
        count = int(min(WINDOWS, self.news - 1))
        if count < 2:
            return ()
        start, end = max(seen.times[0] for seen in self._seen), min(seen.times[-1] for seen in self._seen)
        if end <= start:
            return ()
        bounds = [start + (end - start) * number / count for number in range(count + 1)]
        joules = [sum(seen.joules_at(bound) for seen in self._seen) for bound in bounds]
        return tuple((joules[number + 1] - joules[number]) * count / (end - start) for number in range(count))

    def _joules(self) -> list[float]:
        """Of every meter; empty when one cannot be read."""
        try:
            joules = [meter.joules() for meter in self._meters]
        except MeterError:
            return []
        return joules if all(map(math.isfinite, joules)) else []


def tag_of(meters: Sequence[PowerMeter]) -> str:
    """How to take figures that these meters show together."""
    tags = {meter.tag for meter in meters}
    return tags.pop() if len(tags) == 1 else "estimated"
