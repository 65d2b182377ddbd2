"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio


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
