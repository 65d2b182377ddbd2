"""A phase's clock stands still while a worker builds something."""

from __future__ import annotations

import asyncio

import pytest

from agent.deploy.clock import PhaseClock, within


class Builds:
    """``built``: seconds that were spent on building so far."""

    built = 0.0

    def seconds(self, model: str) -> float:
        assert model == "digits"
        return self.built


def clock(builds: Builds) -> PhaseClock:
    return PhaseClock(builds, "digits")  # type: ignore[arg-type]


async def answer(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


def test_what_was_built_before_does_not_count() -> None:
    builds = Builds()
    builds.built = 500.0
    running = clock(builds)
    assert 0.0 <= running.seconds < 100.0
    builds.built += 3600.0
    assert running.seconds < -3000.0


def test_work_that_ends_in_time_gives_its_result() -> None:
    assert asyncio.run(within(30.0, clock(Builds()), answer(0.0))) == "done"


def test_work_that_takes_too_long_is_cancelled() -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(within(0.05, clock(Builds()), forever()))
    assert ended == [True]


def test_building_takes_as_long_as_it_takes() -> None:
    builds = Builds()

    async def build() -> str:
        builds.built = 3600.0
        return await answer(0.3)

    assert asyncio.run(within(0.1, clock(builds), build())) == "done"


def test_an_error_and_a_cancellation_come_through() -> None:
    async def fails() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        asyncio.run(within(30.0, clock(Builds()), fails()))

    async def canceled() -> None:
        task = asyncio.create_task(within(30.0, clock(Builds()), answer(3600.0)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(canceled())
