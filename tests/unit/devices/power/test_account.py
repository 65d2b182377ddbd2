"""Energy never goes back, and no glitch is in it."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.devices.power.account import CONFIRM_S, MAX_WATTS, Counter, Watts
from agent.errors import MeterError

RANGE = 65_532_610_987
SECONDS = st.floats(0.001, 1.0)


def test_watts_are_integrated_by_trapezoids() -> None:
    sums = Watts()
    for time, watts in ((0.0, 4.0), (2.0, 6.0), (3.0, 6.0)):
        sums.add(time, watts)
    assert sums.total == pytest.approx(16.0)


def test_a_single_outlier_does_not_count_and_a_change_does() -> None:
    """10 A at 0.16 V on a supply of 0.85 V, then a load that comes to stay."""
    sums = Watts()
    readings = [(0.5, 0.85)] * 3 + [(1.6, 0.16)] + [(0.5, 0.85)] * 3 + [(30.0, 0.85)] * 3
    for index, (watts, volts) in enumerate(readings):
        sums.add(index * 1.0, watts, volts)
    assert sums.total == pytest.approx(6 * 0.5 + (0.5 + 30) / 2 + 2 * 30)


def test_the_first_reading_may_be_the_glitch() -> None:
    sums = Watts()
    for index, (watts, volts) in enumerate([(1.6, 0.16)] + [(0.5, 0.85)] * 3):
        sums.add(index * 1.0, watts, volts)
    assert sums.total == pytest.approx(1.0)  # from the second on


def test_a_glitch_that_is_read_twice_from_one_conversion_does_not_count() -> None:
    sums = Watts()
    for time, watts in ((0.0, 1.0), (1.0, 1.0), (1.02, 90.0), (1.06, 90.0), (1.1, 1.0), (2.0, 1.0)):
        sums.add(time, watts)
    assert sums.total == pytest.approx(2.0)


def test_a_rail_that_is_switched_off_is_believed() -> None:
    sums = Watts()
    for time, watts, volts in ((0, 2.0, 1.8), (1, 2.0, 1.8), (2, 0.0, 0.0), (3, 0.0, 0.0), (4, 0.0, 0.0)):
        sums.add(time, watts, volts)
    assert sums.total == pytest.approx(3.0)


@pytest.mark.parametrize("watts", [70_000.0, -20.0, math.nan, math.inf])
def test_what_no_rail_draws_is_named(watts: float) -> None:
    with pytest.raises(MeterError, match="check the sensor's shunt value"):
        Watts().add(0.0, watts)


def test_a_little_below_zero_is_nothing() -> None:
    sums = Watts()
    sums.add(0.0, -0.004)
    sums.add(1.0, -0.004)
    assert sums.total == 0.0


@st.composite
def disturbed(draw: st.DrawFn) -> tuple[list[tuple[float, float, float, bool]], float]:
    """(time, watts, volts, good) of a rail of 0.85 V between 1 W and 3 W, with short glitches between good readings
    (other volts, absurd or leaping watts); and the energy of the good ones."""
    time, readings, energy = 0.0, [], 0.0
    before: tuple[float, float] | None = None
    for _ in range(draw(st.integers(3, 20))):
        time += draw(SECONDS)
        watts = draw(st.floats(1.0, 3.0))
        readings.append((time, watts, draw(st.floats(0.8, 0.9)), True))
        if before is not None:
            energy += (time - before[0]) * (watts + before[1]) / 2
        before = time, watts
        if len(readings) < 2 or not draw(st.booleans()):
            continue
        glitch = draw(
            st.one_of(
                st.tuples(st.floats(0, 20), st.floats(0, 0.5)),
                st.tuples(st.floats(2 * 3 + 2.1, 1e6), st.just(0.85)),
                st.tuples(st.sampled_from([math.nan, math.inf, -math.inf, -50.0]), st.just(0.85)),
                st.tuples(st.just(2.0), st.sampled_from([math.nan, math.inf])),
            )
        )
        for _ in range(draw(st.integers(1, 2))):
            time += draw(st.floats(0.0, CONFIRM_S / 2.1))
            readings.append((time, *glitch, False))
    return readings, energy


@given(disturbed())
def test_a_sensor_never_goes_back_and_never_counts_a_glitch(
    given: tuple[list[tuple[float, float, float, bool]], float],
) -> None:
    readings, energy = given
    sums, before = Watts(), 0.0
    for time, watts, volts, good in readings:
        with contextlib.nullcontext() if good else contextlib.suppress(MeterError):
            sums.add(time, watts, volts)
        assert sums.total >= before
        before = sums.total
    assert sums.total == pytest.approx(energy)


@given(st.lists(st.tuples(SECONDS, st.floats(allow_nan=True), st.floats(allow_nan=True))))
def test_whatever_a_sensor_shows_its_energy_is_finite_and_grows(
    steps: list[tuple[float, float, float]],
) -> None:
    sums, before, time = Watts(), 0.0, 0.0
    for seconds, watts, volts in steps:
        time += seconds
        with contextlib.suppress(MeterError):
            sums.add(time, watts, volts)
        assert before <= sums.total <= MAX_WATTS * time
        before = sums.total


def test_a_clock_that_goes_back_counts_nothing() -> None:
    sums = Watts()
    for time in (5.0, 6.0, 2.0, 7.0):
        sums.add(time, 1.0)
    assert sums.total == pytest.approx(2.0)


def test_a_counter_wraps() -> None:
    counter = Counter(1e-6, RANGE)
    counter.add(0.0, RANGE - 1_000_000)
    counter.add(1.0, 500_000)
    assert counter.total == pytest.approx(1.5)
    assert counter.last is not None and counter.last.watts == pytest.approx(1.5)


def test_a_counter_that_restarts_goes_on_from_there() -> None:
    counter = Counter(1e-6, RANGE)
    counter.add(0.0, 9_000_000_000)
    with pytest.raises(MeterError, match="leaps from 9000000000 to 1000000"):
        counter.add(1.0, 1_000_000)
    counter.add(2.0, 3_000_000)
    counter.add(3.0, 4_000_000)
    assert counter.total == pytest.approx(3.0)


@given(
    st.integers(0, RANGE - 1),
    st.lists(st.tuples(SECONDS, st.floats(0, 0.9), st.integers(0, RANGE - 1), st.booleans()), max_size=20),
)
def test_a_counter_never_goes_back_and_never_counts_a_glitch(
    start: int, steps: list[tuple[float, float, int, bool]]
) -> None:
    """Watts up to 0.9 of the most, across wraps; a glitch shows a value that is out of reach and comes alone."""
    counter, time, value, before, true_uj = Counter(1e-6, RANGE), 0.0, start, 0.0, 0
    counter.add(time, value)
    for seconds, share, glitch, disturb in steps:
        step = int(seconds * share * MAX_WATTS * 1e6)
        reach = int(1.2 * MAX_WATTS * 1e6)
        away = min((glitch - value) % RANGE, (value - glitch) % RANGE)
        if disturb and away > 3 * reach:
            with pytest.raises(MeterError):
                counter.add(time + seconds / 2, glitch)
        time, value, true_uj = time + seconds, (value + step) % RANGE, true_uj + step
        counter.add(time, value)
        assert counter.total >= before
        before = counter.total
    assert counter.total == pytest.approx(true_uj / 1e6)


@given(st.lists(st.tuples(SECONDS, st.integers(-(2**63), 2**64))))
def test_whatever_a_counter_shows_its_energy_grows_within_reason(steps: list[tuple[float, int]]) -> None:
    counter, before, time = Counter(1e-3), 0.0, 0.0
    for seconds, value in steps:
        time += seconds
        with contextlib.suppress(MeterError):
            counter.add(time, value)
        assert before <= counter.total <= MAX_WATTS * (time + 0.1 * len(steps))
        before = counter.total
