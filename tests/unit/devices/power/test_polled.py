"""The thread that reads slow sensors."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

from agent.devices.power import open_meters
from agent.devices.power.account import Watts
from agent.devices.power.polled import FASTEST_S, SLOWEST_S, PolledMeter, Poller
from agent.errors import MeterError
from tests.unit.devices.power.trees import Clock, hwmon

DEADLINE_S = 20.0


def meter_of(poller: Poller, watts: list[float], clock: Clock, rail: str = "VIN") -> PolledMeter:
    return PolledMeter(poller, rail, Watts(), lambda: (watts[0],), clock)


def until(condition: object) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_thread_reads_from_the_first_question_on_until_nobody_has_the_meter(tmp_path: Path) -> None:
    hwmon(tmp_path, 0, name="ina226", power1_input=8_000_000)
    before = threading.active_count()
    (meter,), _ = open_meters(tmp_path)
    assert threading.active_count() == before
    until(lambda meter=meter: meter.joules() > 0.1)
    assert threading.active_count() == before + 1
    gone = weakref.ref(meter)
    del meter
    until(lambda: not gc.collect() and gone() is None)
    until(lambda: threading.active_count() == before)


def test_a_sensor_that_hangs_keeps_nobody_waiting() -> None:
    poller, clock, release = Poller(), Clock(), threading.Event()
    calls: list[int] = []

    def read() -> tuple[float]:
        calls.append(1)
        if len(calls) > 2:
            release.wait(DEADLINE_S)
        return (3.0,)

    meter = PolledMeter(poller, "VIN", Watts(), read, clock)
    try:
        assert meter.joules() == 0.0
        until(lambda: len(calls) > 2)
        clock.time += 1.0
        assert meter.joules() == pytest.approx(1.5)  # 3 W for 0.5 s
        clock.time += 1.5
        with pytest.raises(MeterError, match="VIN"):
            meter.joules()
    finally:
        release.set()


@pytest.mark.usefixtures("by_hand")
def test_joules_never_go_back_when_less_is_drawn_than_was_taken_for_granted() -> None:
    poller, clock, watts = Poller(), Clock(), [100.0]
    meter = meter_of(poller, watts, clock)
    meter.joules()
    clock.time += 0.1
    meter.poll()
    clock.time += 0.1
    shown = meter.joules()
    assert shown == pytest.approx(20.0)
    watts[0] = 0.0
    meter.poll()
    assert meter.joules() == shown
    clock.time += 1.0
    meter.poll()
    assert meter.joules() == shown


@pytest.mark.usefixtures("by_hand")
def test_it_is_read_as_often_as_it_is_asked_for() -> None:
    poller, clock = Poller(), Clock()
    often, seldom = meter_of(poller, [1.0], clock), meter_of(poller, [1.0], clock, "VDD")
    assert poller.pace_s == SLOWEST_S
    for gap, pace in ((1.0, SLOWEST_S), (0.05, 0.05), (1e-3, FASTEST_S), (1.0, SLOWEST_S)):
        clock.time += gap
        poller.poll()
        often.joules()
        assert poller.pace_s == pytest.approx(pace)
    clock.time += 1.0
    poller.poll()
    seldom.joules()
    assert poller.pace_s == SLOWEST_S
