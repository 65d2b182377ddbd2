"""The source of packages, without a broker: what waits for its hours."""

from __future__ import annotations

import asyncio

from agent.app.wire import WireSource
from agent.config import Config
from agent.types import MAX_MODELS

NIGHT = "waits for 22:00, download hours"


def test_none_of_as_many_models_as_a_node_may_have_is_forgotten_while_they_wait() -> None:
    """What is forgotten of one would let its deadline strike while it waits."""
    config = Config.model_validate(
        {
            "node": {"site": "plant", "name": "n1"},
            "mqtt": {"host": "127.0.0.1", "port": 9},
            "delivery": {"download_hours": ("22:00-23:00",)},
        }
    )

    async def run() -> None:
        source = WireSource(config, look_s=5.0)
        source._hours.closed = lambda: NIGHT  # type: ignore[method-assign]
        digests = [f"{number:064x}" for number in range(MAX_MODELS)]
        work = [asyncio.create_task(source.fetch(digest, {digest: 0}, print)) for digest in digests]
        await asyncio.sleep(0.1)
        try:
            assert {source.delivery(digest).waits_for for digest in digests} == {NIGHT}
            assert all(source.delivery(digest).waited_s > 0.0 for digest in digests)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await source.close()

    asyncio.run(run())
