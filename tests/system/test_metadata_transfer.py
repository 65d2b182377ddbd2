"""Metadata of the repository through real brokers: lost messages and connections, silent and hostile servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agent.app.wire import WireSource
from agent.config import Config
from agent.errors import MessageError
from agent.fleet.metadata_server import MAX_REQUEST_BYTES, MetadataServer
from agent.link.client import Message, MqttSettings
from agent.link.messages import RepoRequest
from agent.link.repo import MetadataFetcher
from agent.link.topics import metadata_data, metadata_requests
from agent.link.values import MAX_PAYLOAD_BYTES
from tests.system.brokers import Broker, start_mosquitto, start_nats
from tests.system.links import QUICK, Recorded, until
from tests.system.stage import SITE as STAGE_SITE
from tests.system.stage import stage

SITE = "plant"
FILES = {"timestamp.json": b"t" * 700, "12.snapshot.json": b"s" * 20_000, "3.targets.json": b"x" * 900_000}
LIMIT = 960 * 1024


class Server(Recorded):
    """A MetadataServer of ``files``; ``drops`` decides which of its answers get lost (topic, how often it was sent)."""

    def __init__(
        self, broker: Broker, drops: Callable[[str, int], bool] = lambda _topic, _count: False
    ) -> None:
        super().__init__(broker, "server")
        self.files: dict[str, bytes] = dict(FILES)
        self.sent: list[str] = []
        self.refused = 0
        self._drops = drops
        self.server = MetadataServer(SITE, self, self._send, lambda *_, **__: None)
        self.on_message = self._answer
        self.on_disconnect = self._lost
        self.subscribe(self.server.requests, 0)

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def _send(self, topic: str, payload: bytes) -> asyncio.Future[None]:
        self.sent.append(topic)
        if self._drops(topic, self.sent.count(topic)):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return self.publish(topic, payload, qos=0)

    def _lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.server.disconnected()

    def _answer(self, message: Message) -> None:
        self.messages.append(message)
        try:
            self.server.handle(message.payload)
        except MessageError:
            self.refused += 1

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        async with self:
            await self.ready()
            task = asyncio.create_task(self.server.run())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def fetcher(
    broker: Broker, name: str = "node", linger_s: float = 5.0
) -> AsyncIterator[MetadataFetcher]:
    settings = MqttSettings(broker.host, broker.port, name, ca=broker.ca)
    it = MetadataFetcher(settings, SITE, QUICK, linger_s=linger_s)
    try:
        yield it
    finally:
        await it.close()


async def get(it: MetadataFetcher, name: str, limit: int = LIMIT) -> bytes | None:
    return await asyncio.wait_for(it.get(name, limit), 30)


def files_come(broker: Broker) -> None:
    async def run() -> None:
        async with Server(broker).serving() as server, fetcher(broker) as node:
            for name, data in FILES.items():
                assert await get(node, name) == data
            assert await get(node, "2.root.json") is None
            assert await get(node, "3.targets.json", 1000) == FILES["3.targets.json"][:1001]
            assert node.counters.connections == 1
            assert node.counters.asked == len(server.messages) == 5
            assert node.counters.bytes_received == node.counters.bytes_useful
            with pytest.raises(ValueError, match="metadata"):
                await get(node, "../root.json")
            server.files["timestamp.json"] = b"newer"
            assert await get(node, "timestamp.json") == b"newer"

    asyncio.run(run())


def test_files_come_through_mosquitto_and_what_is_not_there_is_told(tmp_path: Path) -> None:
    with start_mosquitto(tmp_path) as broker:
        files_come(broker)


def test_files_come_through_nats(tmp_path: Path) -> None:
    with start_nats(tmp_path) as broker:
        files_come(broker)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


def test_what_is_lost_is_asked_for_again(broker: Broker) -> None:
    async def run() -> None:
        drops = Server(broker, lambda _topic, count: count == 1)
        async with drops.serving() as server, fetcher(broker) as node:
            assert await get(node, "timestamp.json") == FILES["timestamp.json"]
            assert node.counters.asked == 2
            assert server.sent == [metadata_data(SITE, "timestamp.json")] * 2

    asyncio.run(run())


def test_a_lost_connection_and_a_broker_that_restarts_are_survived(tmp_path: Path) -> None:
    async def run(broker: Broker) -> None:
        silent = True
        async with Server(broker, lambda *_: silent).serving() as server, fetcher(broker) as node:
            task = asyncio.create_task(node.get("12.snapshot.json", LIMIT))
            await until(lambda: server.messages)
            broker.kill()
            await until(lambda: not server.is_connected)
            silent = False
            broker.start()
            assert await asyncio.wait_for(task, 30) == FILES["12.snapshot.json"]
            assert node.counters.connections >= 2

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_the_connection_lingers_and_ends(broker: Broker) -> None:
    async def run() -> None:
        async with Server(broker).serving(), fetcher(broker, linger_s=0.3) as node:
            for _ in range(2):
                await get(node, "timestamp.json")
                await asyncio.sleep(0.1)
                assert node._link is not None
            assert node.counters.connections == 1
            await until(lambda: node._link is None)
            assert await get(node, "timestamp.json") == FILES["timestamp.json"]
            assert node.counters.connections == 2

    asyncio.run(run())


def test_a_silent_server_is_waited_for_and_said_so_once(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.link.window.START_S", 0.05)

    async def run() -> None:
        async with Server(broker, lambda *_: True).serving() as server, fetcher(broker) as node:
            task = asyncio.create_task(node.get("timestamp.json", LIMIT))
            await until(lambda: node.counters.asked >= 6)
            assert not task.done()
            assert len(server.messages) <= node.counters.asked
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server._drops = lambda *_: False
            assert (
                await get(node, "timestamp.json") == FILES["timestamp.json"]
            )  # another try, the same connection

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert sum("no answer yet" in record.message for record in caplog.records) == 1


def test_two_that_ask_at_once_get_theirs(broker: Broker) -> None:
    async def run() -> None:
        async with Server(broker).serving(), fetcher(broker) as node:
            names = [*FILES, "9.root.json"]
            found = await asyncio.gather(*(get(node, name) for name in names))
            assert found == [*FILES.values(), None]

    asyncio.run(run())


def test_nodes_that_ask_together_share_what_the_server_sends(broker: Broker) -> None:
    async def run() -> None:
        async with Server(broker).serving() as server, contextlib.AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(fetcher(broker, f"n{index}")) for index in range(12)]
            found = await asyncio.gather(*(get(node, "12.snapshot.json") for node in nodes))
            assert found == [FILES["12.snapshot.json"]] * 12
            assert len(server.sent) <= 4

    asyncio.run(run())


def test_a_message_that_no_repository_sends_is_passed_over(broker: Broker) -> None:
    """What a broker kept, more bytes than a message may have, and files that nobody here asked for."""

    async def run() -> None:
        async with Recorded(broker, "stranger") as stranger:
            await stranger.ready()
            await stranger.publish(metadata_data(SITE, "timestamp.json"), b"old", qos=1, retain=True)
            hostile = Server(broker, lambda *_: True)
            async with hostile.serving() as server, fetcher(broker) as node:
                task = asyncio.create_task(node.get("timestamp.json", LIMIT))
                await until(lambda: server.messages)
                await until(lambda: node.counters.unwanted == 1)
                for name in ("12.snapshot.json", "1.root.json"):
                    await stranger.publish(metadata_data(SITE, name), b"unasked", qos=1)
                await stranger.ready()
                assert not task.done()
                server._drops = lambda *_: False
                assert await asyncio.wait_for(task, 30) == FILES["timestamp.json"]
                assert node.counters.unwanted == 1
            await stranger.publish(metadata_data(SITE, "timestamp.json"), b"", qos=1, retain=True)

    asyncio.run(run())


def test_an_answer_above_the_limit_of_messages_is_dropped_and_an_honest_one_taken(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with Server(broker).serving() as server, fetcher(broker) as node:
            server.files["timestamp.json"] = bytes(MAX_PAYLOAD_BYTES + 1)
            task = asyncio.create_task(node.get("timestamp.json", LIMIT))
            with monkeypatch.context() as patch:
                patch.setattr("agent.link.client.MAX_PAYLOAD_BYTES", 2 * MAX_PAYLOAD_BYTES)
                patch.setattr("agent.fleet.metadata_server.MAX_PAYLOAD_BYTES", 2 * MAX_PAYLOAD_BYTES)
                await until(lambda: server.sent)
                await until(lambda: f"dropped {MAX_PAYLOAD_BYTES + 1} bytes" in caplog.text)
            assert not task.done()
            server.files["timestamp.json"] = b"honest"
            assert await asyncio.wait_for(task, 30) == b"honest"

    asyncio.run(run())


def test_a_flood_of_requests_does_not_keep_a_node_from_its_file(broker: Broker) -> None:
    async def run() -> None:
        async with Server(broker).serving() as server, Recorded(broker, "flood") as flood:
            await flood.ready()
            flooding = True

            async def send() -> None:
                number = 0
                while flooding:
                    names = [f"{number * 8 + each + 1}.made-up.json" for each in range(8)]
                    await flood.publish(metadata_requests(SITE), RepoRequest(names=names).encode(), qos=0)
                    await flood.publish(metadata_requests(SITE), b"x" * (MAX_REQUEST_BYTES + 1), qos=0)
                    number += 1

            task = asyncio.create_task(send())
            async with fetcher(broker) as node:
                for name, data in FILES.items():
                    assert await get(node, name) == data
            flooding = False
            await task
            assert server.refused > 0
            assert any("made-up" in topic for topic in server.sent)

    asyncio.run(run())


def test_fleet_serve_answers_with_the_repository(tmp_path: Path) -> None:
    with stage(tmp_path) as it:
        it.serve()

        async def run() -> None:
            settings = MqttSettings(it.broker.host, it.broker.port, "node")
            node = MetadataFetcher(settings, STAGE_SITE, QUICK)
            metadata = it.home / "repo" / "metadata"
            for name in ("timestamp.json", "1.root.json"):
                assert await get(node, name) == (metadata / name).read_bytes()
            assert await get(node, "2.root.json") is None
            await node.close()

        asyncio.run(run())
        assert it.server is not None and it.server.poll() is None


def test_a_node_counts_metadata_and_does_not_wait_for_its_hours(broker: Broker) -> None:
    config = Config.model_validate(
        {
            "node": {"site": SITE, "name": "n1"},
            "mqtt": {"host": broker.host, "port": broker.port},
            "delivery": {"download_hours": ("00:00-24:00",)},
        }
    )

    async def run() -> None:
        source = WireSource(config)
        source._hours.closed = lambda: "waits for 22:00, download hours"  # type: ignore[method-assign]
        async with Server(broker).serving():
            found = await asyncio.wait_for(source.metadata("timestamp.json", LIMIT), 30)
            assert found == FILES["timestamp.json"]
            assert await asyncio.wait_for(source.metadata("2.root.json", LIMIT), 30) is None
        assert source.total.received == source.total.useful == len(FILES["timestamp.json"])
        assert source.keep_newer is False
        await source.close()
        await source.close()

    asyncio.run(run())
