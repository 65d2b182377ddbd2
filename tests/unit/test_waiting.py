from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from agent.waiting import set_within, stop_signals


def test_it_waits_until_the_event_or_the_time() -> None:
    async def use() -> None:
        event = asyncio.Event()
        assert not await set_within(event, 0.001)
        asyncio.get_running_loop().call_soon(event.set)
        assert await set_within(event, 60.0)
        assert await set_within(event, 60.0)

    asyncio.run(use())


def test_a_cancellation_that_comes_with_the_event_is_not_swallowed() -> None:
    async def use() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(set_within(event, 60.0))
        await asyncio.sleep(0.01)
        event.set()
        await asyncio.sleep(0)  # its inner wait has ended, itself it has not run again
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_loop_that_many_threads_have_woken_meanwhile(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    async def use() -> None:
        with stop_signals() as stop:
            for _ in range(10_000):  # more than the pipe takes that wakes the loop
                asyncio.get_running_loop().call_soon_threadsafe(lambda: None)
            signal.raise_signal(number)
            assert await set_within(stop, 10.0)

    asyncio.run(use())
    assert signal.getsignal(number) == before


def test_a_signal_wakes_a_loop_that_waits() -> None:
    async def use() -> None:
        with stop_signals() as stop:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
            timer.start()
            assert await set_within(stop, 60.0)
            timer.join()

    asyncio.run(use())
