"""BlockFetcher against real brokers and a small server over MqttLink."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import BlockError, BlockMissing, StoreError
from agent.fleet.sizes import SizeProbe
from agent.link.blocks import MAX_EARLY, BlockFetcher, encode_frame
from agent.link.client import Message, MqttSettings
from agent.link.messages import BlockRequest, parse
from agent.link.pace import BURST_S, Pace
from agent.link.topics import block_data, block_requests
from agent.link.window import MAX_BYTES
from tests.system.brokers import Broker, start_mosquitto, start_nats
from tests.system.links import QUICK, Recorded, until

SITE = "plant"
PACKAGE = hashlib.sha256(b"package").hexdigest()


def make_blocks(count: int, size: int = 256 * 1024) -> dict[str, bytes]:
    source = random.Random(7)
    blocks = [source.randbytes(size - index % 5) for index in range(count)]
    return {hashlib.sha256(data).hexdigest(): data for data in blocks}


class Server(Recorded):
    """Answers requests, a block within 50 ms once. ``spoil`` may change a frame or drop it (None)."""

    def __init__(
        self,
        broker: Broker,
        blocks: dict[str, bytes],
        spoil: Callable[[str, bytes], bytes | None] = lambda _, frame: frame,
    ) -> None:
        super().__init__(broker, "server")
        self.on_message = self.answer
        self.sent: Counter[str] = Counter()
        self.requests = 0
        self.largest_request = 0
        self._blocks = blocks
        self._spoil = spoil
        self._recent: dict[str, float] = {}
        self.subscribe(block_requests(SITE, PACKAGE), 0)

    def answer(self, message: Message) -> None:
        request = parse(BlockRequest, message.payload)
        self.requests += 1
        now = asyncio.get_running_loop().time()
        nbytes = 0
        for sha in request.blocks:
            nbytes += len(self._blocks.get(sha, b""))
            if now - self._recent.get(sha, -1.0) < 0.05:
                continue
            self._recent[sha] = now
            frame = self._spoil(sha, encode_frame(sha, self._blocks.get(sha, b"")))
            self.sent[sha] += 1
            if frame is not None:
                self.publish(block_data(SITE, PACKAGE), frame, qos=0)
        self.largest_request = max(self.largest_request, nbytes)


def fetcher(broker: Broker, name: str = "node") -> BlockFetcher:
    return BlockFetcher(MqttSettings(broker.host, broker.port, name), SITE, backoff=QUICK)


def sizes(blocks: dict[str, bytes]) -> dict[str, int]:
    return {sha: len(data) for sha, data in blocks.items()}


class Received(dict[str, bytes]):
    """``deliver`` that keeps blocks and accepts each once."""

    def __call__(self, sha: str, data: bytes) -> None:
        assert sha not in self
        if hashlib.sha256(data).hexdigest() != sha:
            raise BlockError("wrong")
        self[sha] = data


def whole_transfer(broker: Broker) -> None:
    blocks = make_blocks(20)

    async def run() -> None:
        async with Server(broker, blocks) as server:
            await server.ready()
            node, got = fetcher(broker), Received()
            await asyncio.wait_for(node.fetch(PACKAGE, sizes(blocks), got), 30)
            assert got == blocks
            assert list(got) == list(blocks)
            assert server.largest_request <= 4 << 20
            assert server.requests < len(blocks)
            assert set(server.sent.values()) == {1}
            assert node.counters.blocks == node.counters.asked == len(blocks)
            assert node.counters.bytes_received == sum(len(data) + 32 for data in blocks.values())
            manifest = Received()
            server._blocks[PACKAGE] = b"package"
            await asyncio.wait_for(node.fetch(PACKAGE, {PACKAGE: 0}, manifest), 10)
            assert manifest == {PACKAGE: b"package"}
            await node.fetch(PACKAGE, {}, got)

    asyncio.run(run())


def test_a_package_comes_whole_through_mosquitto(tmp_path: Path) -> None:
    with start_mosquitto(tmp_path) as broker:
        whole_transfer(broker)


def test_a_package_comes_whole_through_nats(tmp_path: Path) -> None:
    with start_nats(tmp_path) as broker:
        whole_transfer(broker)


def test_a_package_comes_whole_over_tls(tmp_path: Path) -> None:
    blocks = make_blocks(20)
    with start_mosquitto(tmp_path, tls=True) as broker:

        async def run() -> None:
            settings = MqttSettings(broker.host, broker.port, "node", ca=broker.ca)
            async with Server(broker, blocks) as server:
                await server.ready()
                got = Received()
                await asyncio.wait_for(BlockFetcher(settings, SITE).fetch(PACKAGE, sizes(blocks), got), 30)
                assert got == blocks

        asyncio.run(run())


def test_a_broker_restart_costs_one_window_at_most(tmp_path: Path) -> None:
    blocks = make_blocks(60, 64 * 1024)

    async def run(broker: Broker) -> None:
        got = Received()
        reached = asyncio.Event()
        go_on = asyncio.Event()

        def deliver(sha: str, data: bytes) -> None:
            got(sha, data)
            if len(got) == 20:
                reached.set()

        async with Server(
            broker, blocks, lambda sha, frame: frame if go_on.is_set() or len(got) < 20 else None
        ) as server:
            await server.ready()
            node = fetcher(broker)
            task = asyncio.create_task(node.fetch(PACKAGE, sizes(blocks), deliver))
            await asyncio.wait_for(reached.wait(), 10)
            broker.kill()
            await until(lambda: not server.is_connected)
            before = len(got)
            go_on.set()
            broker.start()
            await asyncio.wait_for(task, 30)
            assert got == blocks
            assert 20 <= before < len(blocks)
            assert node.counters.connections >= 2
            assert node.counters.unwanted == 0
            assert sum(server.sent.values()) <= len(blocks) + 2 * 16

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_nodes_that_fetch_together_share_what_the_server_sends(tmp_path: Path) -> None:
    blocks = make_blocks(40, 128 * 1024)

    async def run(broker: Broker) -> None:
        async with Server(broker, blocks) as server:
            await server.ready()
            first, second = Received(), Received()
            await asyncio.wait_for(
                asyncio.gather(
                    fetcher(broker, "one").fetch(PACKAGE, sizes(blocks), first),
                    fetcher(broker, "two").fetch(PACKAGE, sizes(blocks), second),
                ),
                30,
            )
            assert first == second == blocks
            assert sum(server.sent.values()) <= 1.5 * len(blocks)

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_lost_and_wrong_blocks_are_asked_for_again(tmp_path: Path) -> None:
    blocks = make_blocks(24, 32 * 1024)
    order = list(blocks)
    seen: set[str] = set()

    def spoil(sha: str, frame: bytes) -> bytes | None:
        if sha in seen:
            return frame
        seen.add(sha)
        match order.index(sha) % 6:
            case 0:
                return None
            case 1:
                return frame[:-1] + bytes([frame[-1] ^ 1])
            case 2:
                return frame[:-1]
            case 3:
                return b"too short"
            case 4:
                return bytes(32) + frame[32:]
        return frame

    async def run(broker: Broker) -> None:
        async with Server(broker, blocks, spoil) as server:
            await server.ready()
            node, got = fetcher(broker), Received()
            await asyncio.wait_for(node.fetch(PACKAGE, sizes(blocks), got), 30)
            assert got == blocks
            assert node.counters.wrong == 12  # three of six kinds, four times each
            assert node.counters.unwanted == 4

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_what_ends_a_transfer(tmp_path: Path) -> None:
    blocks = make_blocks(4, 1024)
    absent = hashlib.sha256(b"absent").hexdigest()

    def disk_full(sha: str, data: bytes) -> None:
        raise StoreError("no space")

    async def run(broker: Broker) -> None:
        async with Server(broker, blocks) as server:
            await server.ready()
            node = fetcher(broker)
            with pytest.raises(BlockMissing, match="publish the package again"):
                await asyncio.wait_for(node.fetch(PACKAGE, sizes(blocks) | {absent: 5}, Received()), 10)
            await asyncio.sleep(0.1)  # the server answers a repeated request again
            with pytest.raises(StoreError, match="no space"):
                await asyncio.wait_for(node.fetch(PACKAGE, sizes(blocks), disk_full), 10)
            with pytest.raises(BlockError, match="cannot be carried"):
                await node.fetch(PACKAGE, {absent: 2 << 20}, Received())
            await server.stop()
            task = asyncio.create_task(node.fetch(PACKAGE, sizes(blocks), Received()))
            await until(lambda: node.counters.connections == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_a_disk_that_hangs_holds_nobody_else_up(tmp_path: Path) -> None:
    blocks = make_blocks(8, 1024)
    asked, go_on = threading.Event(), threading.Event()
    got = Received()

    def hang(sha: str, data: bytes) -> None:
        asked.set()
        assert go_on.wait(20)
        got(sha, data)

    async def run(broker: Broker) -> None:
        async with Server(broker, blocks) as server:
            await server.ready()
            node = fetcher(broker)
            task = asyncio.create_task(node.fetch(PACKAGE, sizes(blocks), hang))
            await until(asked.is_set)  # else the loop would wait for what only it can let go on
            await until(lambda: node.counters.bytes_received > sum(map(len, blocks.values())))
            assert node.counters.blocks == 0
            go_on.set()
            await asyncio.wait_for(task, 30)
            assert got == blocks

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_nothing_is_delivered_once_a_fetch_was_cancelled(tmp_path: Path) -> None:
    blocks = make_blocks(8, 1024)
    asked, go_on = threading.Event(), threading.Event()
    got: list[str] = []

    def hang(sha: str, _data: bytes) -> None:
        got.append(sha)
        asked.set()
        assert go_on.wait(20)

    async def run(broker: Broker) -> None:
        async with Server(broker, blocks) as server:
            await server.ready()
            task = asyncio.create_task(fetcher(broker).fetch(PACKAGE, sizes(blocks), hang))
            await until(asked.is_set)
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done()  # a block is on its way to the disk
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 10)
            assert len(got) == 1

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_what_passes_by_before_and_after_the_manifest_is_kept_for_the_blocks_fetch(tmp_path: Path) -> None:
    blocks = make_blocks(2, 1000)
    (before, after), manifest = blocks, {PACKAGE: b"package"}
    size = sum(len(data) + 32 for data in blocks.values())

    async def run(broker: Broker) -> None:
        async with Server(broker, blocks | manifest, lambda _sha, _frame: None) as server:

            def send(sha: str) -> None:
                frame = encode_frame(sha, (blocks | manifest)[sha])
                server.publish(block_data(SITE, PACKAGE), frame, qos=0)

            await server.ready()
            node, got = fetcher(broker), Received()
            feed = node.listen(PACKAGE)
            try:
                first = asyncio.ensure_future(feed.fetch({PACKAGE: 0}, got))
                await until(lambda: server.requests == 1)
                send(before)  # for another node
                await until(lambda: node.counters.bytes_received > 0)
                send(PACKAGE)
                await asyncio.wait_for(first, 10)
                send(after)
                await until(lambda: node.counters.bytes_received > size)
                await asyncio.wait_for(feed.fetch(sizes(blocks), got), 10)
            finally:
                await feed.close()
            assert got == manifest | blocks
            assert (node.counters.asked, node.counters.connections, server.requests) == (1, 1, 1)

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_a_limit_is_kept_and_what_others_ask_for_counts(tmp_path: Path) -> None:
    blocks = make_blocks(20, 32 * 1024)
    nbytes, rate = sum(map(len, blocks.values())), 200_000.0

    async def run(broker: Broker) -> None:
        async with Server(broker, blocks) as server:
            await server.ready()
            settings, loop = MqttSettings(broker.host, broker.port, "slow"), asyncio.get_running_loop()
            slow = BlockFetcher(settings, SITE, backoff=QUICK, pace=Pace(rate))
            got, begun = Received(), loop.time()
            await asyncio.wait_for(slow.fetch(PACKAGE, sizes(blocks), got), 60)
            assert got == blocks
            assert loop.time() - begun >= (nbytes - 32 * 1024) / rate - BURST_S
            assert slow.counters.bytes_again == 0
            together = BlockFetcher(settings, SITE, backoff=QUICK, pace=Pace(1000.0))
            got, feed = Received(), together.listen(PACKAGE)
            work = asyncio.create_task(feed.fetch(sizes(blocks), got))
            await until(lambda: together.counters.connections)
            await asyncio.wait_for(fetcher(broker).fetch(PACKAGE, sizes(blocks), Received()), 30)
            await asyncio.wait_for(work, 30)  # alone it would take ten minutes
            await feed.close()
            assert got == blocks
            assert together.counters.asked < len(blocks) // 2
            assert together.counters.bytes_useful == nbytes

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_a_flood_on_the_shared_topic_costs_memory_and_time_within_bounds(tmp_path: Path) -> None:
    blocks = make_blocks(24, 64 * 1024)
    others = make_blocks(4, 200 * 1024)
    shas = list(blocks)
    junk = [encode_frame(hashlib.sha256(b"%d" % n).hexdigest(), bytes(100_000)) for n in range(40)]
    junk += [encode_frame(sha, data) for sha, data in others.items()]  # another package's
    junk += [encode_frame(sha, blocks[shas[0]]) for sha in shas[1:]]  # replayed under other names
    junk += [encode_frame(sha, blocks[sha][:-1]) for sha in shas] + [b"", b"x" * 31, bytes(1 << 20)]

    async def run(broker: Broker) -> None:
        node, got = fetcher(broker), Received()

        def first_the_flood(_: str, frame: bytes) -> bytes | None:
            return frame if node.counters.wrong else None

        async with Server(broker, blocks, first_the_flood) as server, Recorded(broker, "flood") as flood:
            await server.ready()
            await flood.ready()
            topic = block_data(SITE, PACKAGE)

            async def send() -> None:
                while True:
                    for frame in junk:
                        await flood.publish(topic, frame, qos=0)
                        flood.publish(block_data("elsewhere", PACKAGE), frame, qos=0)

            flooding = asyncio.create_task(send())
            feed = node.listen(PACKAGE)
            try:
                await asyncio.wait_for(feed.fetch(sizes(blocks), got), 60)
                assert got == blocks
                seen = node.counters
                assert seen.wrong and seen.unwanted
                assert seen.bytes_useful == sum(map(len, blocks.values())) < seen.bytes_received
                await until(lambda: seen.bytes_received > 40 << 20, 60)  # nobody wants any of it any more
                assert feed._early_bytes <= MAX_BYTES
                assert len(feed._early) <= MAX_EARLY
                assert feed._link._network._received_bytes - feed._link._network.handled_bytes < 10 << 20
            finally:
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)
                await feed.close()

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


@pytest.mark.parametrize("limit, told", [(100_000, ["broker-limit"]), (0, [])])
def test_a_broker_that_drops_blocks_is_named(tmp_path: Path, limit: int, told: list[str]) -> None:
    events: list[str] = []

    async def run(broker: Broker) -> None:
        async with Recorded(broker, "server") as link:
            probe = SizeProbe(SITE, link, lambda event, _text, **_: events.append(event), wait_s=1.0)
            link.on_message = lambda message: probe.heard(message.payload)
            task = asyncio.create_task(probe.run())
            await until(lambda: events or probe._whole.is_set())
            await link.ready()
            task.cancel()
            assert events == told

    with start_mosquitto(tmp_path, more=[f"message_size_limit {limit}"]) as broker:
        asyncio.run(run(broker))
