"""Waiting for an event, but not for ever; ending at a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until ``event`` is set, ``seconds`` at most (None: for ever); False when it was not.

    A cancellation always comes through: ``asyncio.wait_for`` before Python 3.12 swallows one that arrives together with
    what it waits for, and whoever cancelled waits for ever.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()
    return event.is_set()


async def to_the_end(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until ``work`` is done, however often this task is cancelled meanwhile; the last cancellation, if any."""
    canceled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            canceled = error
    return canceled


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set; in the main thread.

    ``loop.add_signal_handler`` loses a signal when the pipe that wakes the loop is full, which some hundred calls of
    other threads (the broker's connections) do while the loop is busy.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set)) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
