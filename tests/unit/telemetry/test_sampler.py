from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from agent.errors import MeterError
from agent.telemetry import sampler
from agent.telemetry.sampler import Sampler
from agent.types import PowerSample


@dataclass
class Scripted:
    """A meter that reads what it is told; None is a sensor that cannot be read."""

    rail: str
    readings: list[float | None]
    tag: str = "measured"
    seen: int = field(default=0)

    def joules(self) -> float:
        reading = self.readings[min(self.seen, len(self.readings) - 1)]
        self.seen += 1
        if reading is None:
            raise MeterError("sensor is gone; check the cable")
        return reading


def sample_all(*meters: Scripted, times: Sequence[float]) -> list[list[PowerSample]]:
    clock = iter([time for time in times for _ in meters])
    made = Sampler(meters, monotonic=lambda: next(clock), wall=lambda: 77.0)
    return [made.sample() for _ in times]


def test_watts_are_energy_over_time() -> None:
    found = sample_all(
        Scripted("cpu", [10, 14, 15]), Scripted("gpu", [0, 0, 1], "estimated"), times=[0, 2, 2.5]
    )
    assert found == [
        [],
        [PowerSample(77.0, "cpu", 2.0), PowerSample(77.0, "gpu", 0.0, "estimated")],
        [PowerSample(77.0, "cpu", 2.0), PowerSample(77.0, "gpu", 2.0, "estimated")],
    ]


def test_a_counter_that_went_back_starts_anew() -> None:
    found = sample_all(Scripted("cpu", [10, 2, 3]), times=[0, 1, 2])
    assert [[s.watts for s in samples] for samples in found] == [[], [], [1.0]]


def test_glitches_give_no_sample_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    readings: list[float | None] = [0, 1, 1e9, 3, 4, 5]  # up, which is back for the next one
    with caplog.at_level(logging.INFO):
        found = sample_all(Scripted("cpu", readings), times=range(6))
    assert [[s.watts for s in samples] for samples in found] == [[], [1.0], [], [], [1.0], [1.0]]
    assert [record.getMessage() for record in caplog.records] == [
        "power of cpu is not recorded: its counter jumped",
        "power of cpu is recorded again",
    ]


def test_a_clock_that_stands_still_gives_no_sample() -> None:
    assert sample_all(Scripted("cpu", [1, 2]), times=[5, 5]) == [[], []]


def test_a_lost_sensor_is_told_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    # The clock is read only after a successful reading.
    lost = Scripted("gpu", [None, None, float("nan"), float("nan"), 5, 6])
    clock = iter([0, 1, 2, 3, 4, 4.5, 5, 5.5])
    made = Sampler([Scripted("cpu", [0, 1, 2, 3, 4, 5]), lost], monotonic=lambda: next(clock), wall=lambda: 0)
    with caplog.at_level(logging.INFO):
        found = [made.sample() for _ in range(6)]
    assert [[s.rail for s in samples] for samples in found] == [[], *[["cpu"]] * 4, ["cpu", "gpu"]]
    assert [record.getMessage() for record in caplog.records] == [
        "power of gpu is not recorded: sensor is gone; check the cable",
        "power of gpu is not recorded: reads nan",
        "power of gpu is recorded again",
    ]


def test_a_sensor_with_other_nonsense_each_time_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Wild(Scripted):
        def joules(self) -> float:
            self.seen += 1
            raise MeterError(f"shows {self.seen * 7000.5:g} W")

    wild = Wild("gpu", [])
    made = Sampler([wild])
    for _ in range(5):
        assert made.sample() == []
    assert wild.seen == 5
    assert [record.getMessage() for record in caplog.records] == [
        "power of gpu is not recorded: shows 7000.5 W"
    ]


def test_the_loop_samples_until_cancelled() -> None:
    async def use() -> list[list[PowerSample]]:
        got: list[list[PowerSample]] = []
        enough = asyncio.Event()

        def sink(samples: Sequence[PowerSample]) -> None:
            got.append(list(samples))
            if len(got) == 3:
                enough.set()

        task = asyncio.create_task(sampler.run([Scripted("cpu", [1, 2, 3])], 0.001, sink))
        await asyncio.wait_for(enough.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return got

    got = asyncio.run(use())
    assert got[0] == [] and [s.rail for s in got[2]] == ["cpu"]
