"""The server of blocks, without a broker."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable

import pytest

from agent.errors import BlockMissing, LinkError, MessageError, StoreError
from agent.fleet.gathering import GATHER_S
from agent.fleet.serve import COALESCE_S, WINDOW, BlockServer
from agent.fleet.turns import MAX_QUEUED
from agent.link.frames import decode_frame
from agent.link.topics import block_data, block_requests

BLOCKS = {hashlib.sha256(bytes([n])).hexdigest(): bytes([n]) * (n + 1) for n in range(40)}
SHAS = list(BLOCKS)
PACKAGE = "ab" * 32


class Packages:
    def manifest(self, digest: str) -> bytes:
        if digest != PACKAGE:
            raise BlockMissing("not here")
        return b"the manifest"

    def block(self, sha: str) -> bytes:
        if sha == "ee" * 32:
            raise StoreError("the disk is broken")
        if sha not in BLOCKS:
            raise BlockMissing("not here")
        return BLOCKS[sha]


class Bench:
    """A server, what it published, and a clock that stands still."""

    def __init__(self, written: bool = True) -> None:
        self.now = 0.0
        self.sent: list[tuple[str, str, bytes]] = []
        self.futures: list[asyncio.Future[None]] = []
        self.events: list[str] = []
        self.written = written
        self.broken = False
        self.several = False
        self.server = BlockServer(
            "lab", Packages(), self._publish, self._log, lambda _: self.several, lambda: self.now
        )

    def _log(self, event: str, text: str, **data: object) -> None:
        self.events.append(event)

    def _publish(self, topic: str, frame: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.broken:
            future.set_exception(LinkError("offline"))
        else:
            self.sent.append((topic, *decode_frame(frame)))
            if self.written:
                future.set_result(None)
        self.futures.append(future)
        return future

    def ask(self, *shas: str, package: str = PACKAGE) -> None:
        payload = json.dumps({"blocks": list(shas)}).encode()
        self.server.handle(block_requests("lab", package), payload)

    async def turn(self) -> None:
        for _ in range(300):
            await asyncio.sleep(0)


def run(play: Callable[[Bench], object], written: bool = True) -> Bench:
    async def main() -> Bench:
        bench = Bench(written)
        task = asyncio.ensure_future(bench.server.run())
        steps = play(bench)
        assert hasattr(steps, "__await__")
        await steps
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return bench

    return asyncio.run(main())


def test_blocks_the_manifest_and_missing_ones_are_answered_on_the_shared_topic() -> None:
    async def play(bench: Bench) -> None:
        bench.ask(SHAS[1], PACKAGE, "cd" * 32)
        await bench.turn()

    topic = block_data("lab", PACKAGE)
    assert run(play).sent == [
        (topic, SHAS[1], BLOCKS[SHAS[1]]),
        (topic, PACKAGE, b"the manifest"),
        (topic, "cd" * 32, b""),
    ]


def test_many_nodes_asking_at_once_get_one_answer_until_it_may_be_lost() -> None:
    async def play(bench: Bench) -> None:
        for _ in range(50):
            bench.ask(*SHAS[:3])
        await bench.turn()
        bench.now = COALESCE_S * 0.9
        bench.ask(SHAS[0])
        await bench.turn()
        assert len(bench.sent) == 3
        bench.now = COALESCE_S * 1.1
        bench.ask(SHAS[0])
        await bench.turn()

    assert [sha for _, sha, _ in run(play).sent] == [*SHAS[:3], SHAS[0]]


def test_the_same_block_of_two_packages_goes_to_both() -> None:
    async def play(bench: Bench) -> None:
        bench.ask(SHAS[0])
        bench.ask(SHAS[0], package="cd" * 32)
        await bench.turn()

    assert [topic for topic, _, _ in run(play).sent] == [block_data("lab", p) for p in (PACKAGE, "cd" * 32)]


def test_no_more_than_a_window_is_ahead_of_the_socket() -> None:
    async def play(bench: Bench) -> None:
        bench.ask(*SHAS[:16])
        await bench.turn()
        assert len(bench.sent) == WINDOW
        bench.futures[0].set_result(None)
        await bench.turn()
        assert len(bench.sent) == WINDOW + 1

    run(play, written=False)


def test_what_a_broken_connection_swallowed_is_sent_when_asked_for_again() -> None:
    async def play(bench: Bench) -> None:
        bench.broken = True
        bench.ask(SHAS[0])
        await bench.turn()
        bench.broken = False
        bench.ask(SHAS[0])
        await bench.turn()
        bench.ask(*SHAS[1:5])
        bench.server.disconnected()
        await bench.turn()

    assert [sha for _, sha, _ in run(play).sent] == [SHAS[0]]


def test_a_block_that_cannot_be_read_is_reported_and_the_others_go_on() -> None:
    async def play(bench: Bench) -> None:
        bench.ask("ee" * 32, SHAS[0])
        await bench.turn()

    bench = run(play)
    assert [sha for _, sha, _ in bench.sent] == [SHAS[0]]
    assert bench.events == ["block-error"]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("overlaid/v1/lab/blocks/no-digest/request", b'{"blocks":["' + SHAS[0].encode() + b'"]}'),
        (block_requests("lab", PACKAGE), b"no json"),
        (block_requests("lab", PACKAGE), b'{"blocks":[]}'),
        (block_requests("lab", PACKAGE), json.dumps({"blocks": SHAS[:17]}).encode()),
        (block_requests("lab", PACKAGE), json.dumps({"blocks": SHAS[:1], "more": 1}).encode()),
        (block_requests("lab", PACKAGE), b" " * 5000),
    ],
)
def test_what_is_not_a_request_is_refused_by_name(topic: str, payload: bytes) -> None:
    server = Bench().server
    with pytest.raises(MessageError):
        server.handle(topic, payload)


def test_a_flood_of_requests_keeps_a_bounded_queue() -> None:
    async def play(bench: Bench) -> None:
        for start in range(0, MAX_QUEUED + 320, 16):
            bench.ask(*(f"{n:064x}" for n in range(start, start + 16)))
        bench.ask(SHAS[0], package="cd" * 32)
        while len(bench.sent) < MAX_QUEUED // 2 + 1:
            await bench.turn()
        await bench.turn()
        assert len(bench.sent) == MAX_QUEUED // 2 + 1
        assert bench.sent[1][1] == SHAS[0]  # of another package: it does not wait for all of these

    run(play)


def test_the_blocks_of_a_group_wait_for_its_nodes_and_are_sent_once_after_the_manifest() -> None:
    async def play(bench: Bench) -> None:
        bench.several = True
        for late in range(3):
            bench.now = late * GATHER_S / 2
            bench.ask(PACKAGE)
            bench.ask(*SHAS[:3])
            await bench.turn()
        assert [sha for _, sha, _ in bench.sent] == [PACKAGE]
        bench.now += GATHER_S
        bench.ask(SHAS[3])
        await bench.turn()

    assert [sha for _, sha, _ in run(play).sent] == [PACKAGE, PACKAGE, *SHAS[:4]]


def test_what_waits_for_a_group_is_sent_although_nobody_asks_any_more() -> None:
    async def play(bench: Bench) -> None:
        bench.several = True
        bench.ask(SHAS[0])
        await bench.turn()
        assert not bench.sent
        bench.now = GATHER_S
        await asyncio.sleep(GATHER_S * 1.5)

    assert [sha for _, sha, _ in run(play).sent] == SHAS[:1]
