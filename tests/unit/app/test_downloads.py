"""When blocks may be asked for: daylight saving, clocks that are not set, that stand still or jump."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.app.downloads import FORGET_S, DownloadHours
from agent.hours import CLOCK_GRACE_S, LONGEST_S, Span

NIGHT = [Span.parse("22:00-06:00")]
DAY_S = 86_400.0


def summer_time(seconds: float) -> time.struct_time:
    """A zone one hour ahead, two from 2026-03-29 01:00 UTC to 2026-10-25 01:00 UTC, as most of Europe has it."""
    summer = at(2026, 3, 29, 1) <= seconds < at(2026, 10, 25, 1)
    zone = timezone(timedelta(hours=2 if summer else 1))
    return datetime.fromtimestamp(seconds, zone).timetuple()


def at(*date: int) -> float:
    return datetime(*date, tzinfo=timezone.utc).timestamp()  # type: ignore[misc, arg-type]


class Node:
    """Its clock shows ``start`` and goes on with time, unless ``clock`` says something else of the seconds passed."""

    def __init__(
        self,
        spans: list[Span],
        start: float,
        clock: Callable[[float], float] | None = None,
        proven: float = 0.0,
    ) -> None:
        self.passed = 0.0
        self._start, self._shown = start, clock
        self.hours = DownloadHours(
            spans, self.clock, lambda: max(proven, self.clock()), lambda: self.passed, summer_time
        )

    def clock(self) -> float:
        return self._shown(self.passed) if self._shown else self._start + self.passed

    def opens_after(self, limit_s: float, step_s: float = 250.0) -> float | None:
        """Seconds until it may download, looked at every so often; None when that takes more than ``limit_s``."""
        begun = self.passed
        while self.passed - begun <= limit_s:
            if not self.hours.closed():
                return self.passed - begun
            self.passed += step_s
        return None


def test_without_hours_nothing_waits() -> None:
    assert Node([], 0.0).hours.closed() == ""


def test_it_waits_for_the_hours_and_says_so() -> None:
    node = Node(NIGHT, at(2026, 7, 1, 10))
    assert node.hours.closed() == "waits for 22:00, download hours"
    assert node.opens_after(DAY_S, 60.0) == 10 * 3600.0
    node.passed += 8 * 3600.0
    assert node.hours.closed() == "waits for 22:00, download hours"


@pytest.mark.parametrize("month, day", [(3, 28), (10, 24)])
def test_hours_keep_to_local_time_when_daylight_saving_begins_or_ends(month: int, day: int) -> None:
    node = Node([Span.parse("06:00-07:00")], at(2026, month, day, 12))
    opened = node.opens_after(DAY_S, 60.0)
    assert opened is not None
    assert summer_time(node.clock())[3:5] == (6, 0)


def test_an_hour_that_daylight_saving_leaves_out_comes_a_day_later() -> None:
    node = Node([Span.parse("02:00-03:00")], at(2026, 3, 28, 12))
    opened = node.opens_after(LONGEST_S, 60.0)
    assert opened is not None and DAY_S < opened < LONGEST_S
    assert summer_time(node.clock())[2:5] == (30, 2, 0)


def test_a_clock_that_was_never_set_holds_up_for_minutes_only() -> None:
    node = Node(NIGHT, 12 * 3600.0)
    assert node.hours.closed() == "waits for the clock to be set, download hours"
    assert node.opens_after(DAY_S, 60.0) == CLOCK_GRACE_S
    stuck = Node(NIGHT, 0.0, lambda _: at(2026, 2, 1, 12), proven=at(2026, 9, 1))
    assert stuck.opens_after(DAY_S, 60.0) == CLOCK_GRACE_S


def test_a_clock_that_is_set_meanwhile_counts_at_once() -> None:
    node = Node(NIGHT, 0.0, lambda passed: passed if passed < 120 else at(2026, 7, 1, 12) + passed)
    assert node.hours.closed() == "waits for the clock to be set, download hours"
    node.passed = 120.0
    assert node.hours.closed() == "waits for 22:00, download hours"


def test_each_wait_counts_by_itself() -> None:
    node = Node([Span.parse("22:00-22:30")], at(2026, 7, 1, 12))
    for _ in range(4):  # nights of a long download
        waited = node.opens_after(DAY_S)
        assert waited is not None and waited > 7 * 3600.0
        node.passed += 3600.0
    node.passed += 3 * LONGEST_S  # nobody looks
    while not node.hours.closed():
        node.passed += FORGET_S + 1
    assert node.opens_after(FORGET_S) is None


@settings(deadline=None, max_examples=25)
@given(st.integers(), st.floats(0.0, 0.2))
def test_no_clock_blocks_for_ever(seed: int, jumps: float) -> None:
    luck, shown = random.Random(seed), [at(2026, 7, 1, 12)]

    def clock(_: float) -> float:
        if luck.random() < jumps:
            shown[0] = luck.choice([0.0, at(2026, 7, 1, 12), at(2027, 1, 1, 12), at(2026, 7, 1, 5)])
        return shown[0]  # which stands still otherwise

    assert Node(NIGHT, 0.0, clock).opens_after(LONGEST_S + FORGET_S) is not None
