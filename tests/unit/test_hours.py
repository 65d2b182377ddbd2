"""Hours of the day: what lies in them, and what a clock that is wrong does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hours import DAY, PLAUSIBLE_TIME, Look, Span, look, next_start, patience_s

Minutes = st.integers(0, DAY - 1)


def text(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(Minutes, st.integers(0, DAY), Minutes)
def test_a_span_holds_the_minutes_from_its_start_to_its_end(start: int, end: int, minute: int) -> None:
    if start == end:
        with pytest.raises(ValueError, match="is empty"):
            Span.parse(f"{text(start)}-{text(end)}")
        return
    span = Span.parse(f"{text(start)}-{text(end)}")
    assert span == Span(start, end)
    inside = start <= minute < end if start < end else minute >= start or minute < end
    assert span.holds(minute) is inside


@pytest.mark.parametrize(
    "wrong", ["", "22-06", "22:00", "24:00-06:00", "22:60-06:00", "22:00-24:01", "9:00-10:00", "22:00-06:00 "]
)
def test_what_is_no_span_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"must be like|no day has"):
        Span.parse(wrong)


def test_the_whole_day_is_a_span() -> None:
    assert all(Span.parse("00:00-24:00").holds(minute) for minute in range(DAY))


@given(st.lists(st.tuples(Minutes, Minutes).filter(lambda p: p[0] != p[1]), min_size=1, max_size=4), Minutes)
def test_the_next_start_is_the_first_minute_that_is_inside_again(
    pairs: list[tuple[int, int]], minute: int
) -> None:
    spans = [Span(*pair) for pair in pairs]
    if look(spans, minute, PLAUSIBLE_TIME, 0.0) is Look.OPEN:
        return
    ahead = next(n for n in range(1, DAY + 1) if any(s.holds((minute + n) % DAY) for s in spans))
    assert next_start(spans, minute) == text((minute + ahead) % DAY)


def test_a_clock_that_is_before_what_a_message_proved_is_not_known() -> None:
    span = [Span(0, 60)]
    now = PLAUSIBLE_TIME + 86_400.0
    assert look(span, 30, now, now) is Look.OPEN
    assert look(span, 90, now, now + 60.0) is Look.CLOSED  # an operator's clock may be ahead
    assert look(span, 30, now, now + 86_400.0) is Look.UNKNOWN
    assert look(span, 30, 0.0, 0.0) is Look.UNKNOWN
    assert patience_s(Look.OPEN) == 0.0 < patience_s(Look.UNKNOWN) < patience_s(Look.CLOSED)
