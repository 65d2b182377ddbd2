"""The server of the repository's metadata, without a broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from agent.errors import LinkError, MessageError, StoreError
from agent.fleet.metadata_server import COALESCE_S, MetadataServer
from agent.fleet.turns import MAX_QUEUED
from agent.link.topics import metadata_data
from agent.link.values import MAX_PAYLOAD_BYTES


class Bench:
    """A server, its files, what it published, and a clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.files: dict[str, bytes | StoreError] = {"timestamp.json": b"t1", "3.snapshot.json": b"s3"}
        self.reads: list[str] = []
        self.sent: list[tuple[str, bytes]] = []
        self.events: list[str] = []
        self.broken = False
        self.server = MetadataServer("lab", self, self._publish, self._log, lambda: self.now)

    def read(self, name: str) -> bytes | None:
        self.reads.append(name)
        found = self.files.get(name)
        if isinstance(found, StoreError):
            raise found
        return found

    def _log(self, event: str, text: str, **data: object) -> None:
        self.events.append(text)

    def _publish(self, topic: str, payload: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.broken:
            future.set_exception(LinkError("offline"))
        else:
            self.sent.append((topic, payload))
            future.set_result(None)
        return future

    def ask(self, *names: str) -> None:
        self.server.handle(json.dumps({"names": list(names)}).encode())

    async def turn(self) -> None:
        for _ in range(300):
            await asyncio.sleep(0)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.sent]


def run(play: Callable[[Bench], object]) -> Bench:
    async def main() -> Bench:
        bench = Bench()
        task = asyncio.ensure_future(bench.server.run())
        steps = play(bench)
        assert hasattr(steps, "__await__")
        await steps
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return bench

    return asyncio.run(main())


def test_files_and_what_is_not_there_are_answered_each_on_its_topic() -> None:
    async def play(bench: Bench) -> None:
        bench.ask("timestamp.json", "2.root.json", "3.snapshot.json")
        await bench.turn()

    assert sorted(run(play).sent) == [
        (metadata_data("lab", "2.root.json"), b""),
        (metadata_data("lab", "3.snapshot.json"), b"s3"),
        (metadata_data("lab", "timestamp.json"), b"t1"),
    ]


def test_who_asks_while_a_file_was_just_sent_gets_it_with_the_others_who_do() -> None:
    async def play(bench: Bench) -> None:
        for _ in range(50):
            bench.ask("timestamp.json")
        await bench.turn()
        assert bench.payloads == [b"t1"]
        for _ in range(50):
            bench.ask("timestamp.json")
        bench.files["timestamp.json"] = b"t2"
        await bench.turn()
        assert bench.payloads == [b"t1"]
        bench.now = COALESCE_S
        await asyncio.sleep(1.5 * COALESCE_S)  # nobody asks any more
        assert bench.payloads == [b"t1", b"t2"]
        bench.now = 3 * COALESCE_S
        await asyncio.sleep(1.5 * COALESCE_S)
        assert bench.payloads == [b"t1", b"t2"]
        bench.ask("timestamp.json")
        await bench.turn()

    assert run(play).payloads == [b"t1", b"t2", b"t2"]


def test_what_a_broken_connection_swallowed_is_sent_when_asked_for_again() -> None:
    async def play(bench: Bench) -> None:
        bench.broken = True
        bench.ask("timestamp.json")
        await bench.turn()
        bench.broken = False
        bench.ask("timestamp.json")
        await bench.turn()
        bench.ask("timestamp.json", "3.snapshot.json")
        bench.server.disconnected()
        await bench.turn()
        bench.now = 2 * COALESCE_S
        await bench.turn()

    assert run(play).payloads == [b"t1"]


def test_a_file_that_cannot_be_read_is_reported_once_and_the_others_go_on() -> None:
    async def play(bench: Bench) -> None:
        bench.files |= {"1.targets.json": StoreError("the disk is broken"), "1.big.json": bytes(2 << 20)}
        for _ in range(3):
            bench.ask("1.targets.json")
            await bench.turn()
        assert bench.events == ["metadata 1.targets.json cannot be sent: the disk is broken"]
        bench.ask("timestamp.json", "1.big.json")
        await bench.turn()
        assert bench.payloads == [b"t1"]
        assert str(MAX_PAYLOAD_BYTES) in bench.events[-1]
        bench.files["1.targets.json"] = b"healed"
        bench.ask("1.targets.json")
        await bench.turn()

    assert run(play).payloads == [b"t1", b"healed"]


@pytest.mark.parametrize(
    "payload",
    [
        b"no json",
        b'{"names":[]}',
        b'{"names":["root.json"],"more":1}',
        b'{"names":["../root.json"]}',
        b'{"names":["a/b.json"]}',
        b'{"names":["0.root.json"]}',
        b'{"names":["1.2.root.json"]}',
        b'{"names":["root.json\\n"]}',
        b'{"names":["commands.pem"]}',
        json.dumps({"names": ["a.json"] * 9}).encode(),
        b" " * 2000,
    ],
)
def test_what_is_not_a_request_is_refused_by_name(payload: bytes) -> None:
    bench = Bench()
    with pytest.raises(MessageError, match="request"):
        bench.server.handle(payload)
    assert not bench.reads


def test_a_flood_of_made_up_names_is_bounded_and_does_not_hold_up_what_is_there() -> None:
    async def play(bench: Bench) -> None:
        for start in range(0, MAX_QUEUED + 800, 8):
            bench.ask(*(f"{n + 1}.no.json" for n in range(start, start + 8)))
        bench.ask("timestamp.json")
        while len(bench.sent) < MAX_QUEUED // 2 + 1:
            await bench.turn()
        await bench.turn()
        assert len(bench.sent) == MAX_QUEUED // 2 + 1
        assert b"t1" in bench.payloads[:2]

    run(play)


def test_a_flood_of_requests_for_a_file_reads_it_once() -> None:
    async def play(bench: Bench) -> None:
        for _ in range(1000):
            bench.ask("timestamp.json")
        assert bench.reads == ["timestamp.json"]
        await bench.turn()
        for _ in range(1000):
            bench.ask("timestamp.json")
        assert len(bench.reads) == 2

    run(play)
