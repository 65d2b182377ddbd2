"""What a line is about."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from agent.logs.fields import About, about, about_of, room_of

log = logging.getLogger("agent.test_fields.inner")


class Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.topics: list[About] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.topics.append(about_of(record))


@pytest.fixture
def seen() -> Iterator[Seen]:
    handler = Seen()
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


def test_fields_come_from_the_line_and_from_the_block(seen: Seen) -> None:
    log.warning("nothing")
    log.warning("line", extra={"model": "kws", "device": "cpu"})
    with about(model="digits", deployment=7):
        log.warning("block")
        log.warning("both", extra={"device": "gpu0"})
        log.warning("its own model", extra={"model": "digits", "device": "fpga"})
        with about(model="kws"):
            log.warning("inner")
    log.warning("after")
    assert seen.topics == [
        About(),
        About("kws", None, "cpu"),
        About("digits", 7),
        About("digits", 7, "gpu0"),
        About("digits", 7, "fpga"),
        About("kws"),
        About(),
    ]


def test_a_line_about_another_model_is_not_of_the_block_s_deployment(seen: Seen) -> None:
    with about(model="digits", deployment=7, device="cpu"):
        log.warning("other", extra={"model": "kws"})
    assert seen.topics == [About("kws")]


def test_tasks_beside_each_other_keep_their_own(seen: Seen) -> None:
    async def work(model: str, number: int) -> None:
        with about(model=model, deployment=number):
            await asyncio.sleep(0)
            log.warning("x")
            await asyncio.to_thread(log.warning, "from a thread")

    async def both() -> None:
        await asyncio.gather(work("a", 1), work("b", 2))

    asyncio.run(both())
    assert sorted(seen.topics, key=str) == [About("a", 1)] * 2 + [About("b", 2)] * 2


def test_a_room_is_the_part_below_agent() -> None:
    for name, room in (("agent.link.client", "link"), ("deploy", "deploy")):
        assert room_of(logging.LogRecord(name, 20, "f", 1, "m", None, None)) == room
