from __future__ import annotations

import asyncio

import pytest

from agent.waiting import set_within


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
