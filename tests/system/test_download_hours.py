"""Download hours and a bandwidth limit: what waits says so, a command lets it go ahead, costs are shown."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.app.wire import WireSource
from agent.config import Config
from agent.link.blocks import encode_frame
from agent.link.topics import block_data
from agent.link.window import MAX_BLOCKS
from tests.system.bigmodel import make_big_model
from tests.system.brokers import Broker, start_mosquitto
from tests.system.digits import DIGITS
from tests.system.links import Recorded, until
from tests.system.stage import SITE as STAGE_SITE
from tests.system.stage import Node, Stage, stage, wait_until
from tests.system.test_block_transfer import PACKAGE, Received, Server, make_blocks, sizes
from tests.system.test_block_transfer import SITE as PLANT
from tests.system.test_interrupted import BUDGET, model


def hours_from_now(begin: int, end: int) -> str:
    """``HH:MM-HH:MM``, so many hours after this moment."""
    hour = time.localtime().tm_hour
    return f"{(hour + begin) % 24:02}:00-{(hour + end) % 24:02}:00"


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("hours")) as it:
        it.serve()
        it.publish(DIGITS)
        yield it


def status_of(node: Node) -> str:
    return node.run("status").stdout


def test_a_deployment_waits_for_its_hours_unless_it_is_told_to_go_ahead(it: Stage) -> None:
    hours = hours_from_now(3, 5)
    extra = f'download_timeout_s = 5.0\n[delivery]\ndownload_hours = ["{hours}"]\nmax_kbit_s = 40000\n'
    node = it.node("n1", extra)
    node.start()
    it.fleet("deploy", "digits@1.0.0", "--node", "n1", *BUDGET)
    text = f"waits for {hours[:5]}, download hours"
    wait_until("the reason in status", lambda: model(node, "digits").get("why") == text)
    time.sleep(5.5)  # longer than the time-out, which stands still
    seen = model(node, "digits")
    assert (seen["phase"], seen["why"], seen["delivery"]["received"]) == ("DOWNLOADING", text, 0)
    assert text in " ".join(status_of(node).split())
    assert text in " ".join(it.fleet("status", "n1").stdout.split())
    it.fleet("command", "download", "--node", "n1", "--model", "digits")
    wait_until("digits in service", lambda: model(node, "digits").get("state") == "SUCCEEDED", 60)
    status = json.loads(node.run("status", "--json").stdout)
    cost = status["models"][0]["delivery"]
    assert 0 < cost["useful"] <= cost["received"]
    assert cost["waited_s"] > 5.0 and not cost["waits_for"]
    metadata = status["delivery"]["useful"] - cost["useful"]
    assert 0 < metadata < 10_000  # of the repository: not this package's alone
    assert "MB of models" in status_of(node)
    with urllib.request.urlopen(f"http://127.0.0.1:{node.port}/metrics") as page:
        metrics = page.read().decode()
    assert f'overlaid_download_bytes_total{{kind="received"}} {status["delivery"]["received"]}\n' in metrics
    reported = json.loads(it.fleet("status", "n1", "--json").stdout)["nodes"][0]["reported"]
    assert reported["models"][0]["received_bytes"] == cost["received"]
    refused = it.fleet("command", "download", "--node", "n1", "--model", "digits", check=False)
    assert refused.returncode != 0 and "no deployment in progress" in refused.stdout + refused.stderr


def test_hours_that_end_stop_a_download_which_goes_on_when_they_come_again(tmp_path: Path) -> None:
    blocks = make_blocks(60, 32 * 1024)

    async def run(broker: Broker) -> None:
        shut, reopened = "", False
        config = Config.model_validate(
            {
                "node": {"site": PLANT, "name": "n1"},
                "mqtt": {"host": broker.host, "port": broker.port},
                "delivery": {"download_hours": ("00:00-24:00",)},
            }
        )
        source = WireSource(config, look_s=0.02)
        source._hours.closed = lambda: shut  # type: ignore[method-assign]
        got = Received()

        def deliver(sha: str, data: bytes) -> None:
            nonlocal shut
            got(sha, data)
            if len(got) == 20:
                shut = "waits for 22:00, download hours"

        def answer(_: str, frame: bytes) -> bytes | None:
            return frame if len(got) < 20 or reopened else None

        async with Server(broker, blocks, answer) as server:
            await server.ready()
            work = asyncio.create_task(source.fetch(PACKAGE, sizes(blocks), deliver))
            await until(lambda: source.delivery(PACKAGE).waits_for)
            had, received = len(got), source.total.received
            assert 20 <= had < len(blocks)
            for sha, data in blocks.items():  # for other nodes: not even this is received now
                server.publish(block_data(PLANT, PACKAGE), encode_frame(sha, data), qos=0)
            await server.ready()
            await asyncio.sleep(0.2)
            assert (len(got), source.total.received) == (had, received)
            shut, reopened = "", True
            await asyncio.wait_for(work, 30)
        assert got == blocks
        assert sum(server.sent.values()) <= len(blocks) + 16
        cost = source.delivery(PACKAGE)
        assert cost.useful == sum(map(len, blocks.values())) and cost.waited_s >= 0.2
        await source.close()

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_who_waits_for_its_hours_holds_nobody_up_and_two_download_at_a_time(tmp_path: Path) -> None:
    blocks = make_blocks(4, 1024)
    others = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(3)]

    async def run(broker: Broker) -> None:
        config = Config.model_validate(
            {
                "node": {"site": PLANT, "name": "n1"},
                "mqtt": {"host": broker.host, "port": broker.port},
                "delivery": {"download_hours": ("00:00-24:00",)},
            }
        )
        source, shut = WireSource(config, look_s=0.02), "waits for 22:00, download hours"
        source._hours.closed = lambda: shut  # type: ignore[method-assign]
        async with Server(broker, blocks) as server:
            await server.ready()
            work = [asyncio.create_task(source.fetch(other, {other: 0}, Received())) for other in others]
            await until(lambda: [source.delivery(other).waits_for for other in others] == 3 * [shut])
            got = Received()
            source.hurry(PACKAGE)
            await asyncio.wait_for(source.fetch(PACKAGE, sizes(blocks), got), 10)
            assert got == blocks
            shut = ""  # nobody serves the others, so that two of them go on for ever
            await until(lambda: source.delivery(others[2]).waits_for == "waits for other downloads")
            assert not source.delivery(others[0]).waits_for and not source.delivery(others[1]).waits_for
            work[0].cancel()
            await until(lambda: not source.delivery(others[2]).waits_for)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        await source.close()

    with start_mosquitto(tmp_path) as broker:
        asyncio.run(run(broker))


def test_a_kill_in_mid_download_costs_a_window_at_most(it: Stage) -> None:
    it.publish(make_big_model(it.folder / "big-1", "big", "1.0.0", width=1600), "--block-kib", "64")
    node = it.node("n2", "[delivery]\nmax_kbit_s = 24000\n")
    node.start()

    async def run() -> tuple[int, int]:
        async with Recorded(it.broker, "spy") as spy:
            spy.subscribe(f"overlaid/v1/{STAGE_SITE}/blocks/+/data", 0)
            await spy.ready()

            def deploy() -> None:
                it.fleet("deploy", "big@1.0.0", "--node", "n2", *BUDGET)
                wait_until("half of it", lambda: (model(node, "big").get("progress") or 0) > 0.5)
                node.kill()
                node.start()
                wait_until("big in service", lambda: model(node, "big").get("state") == "SUCCEEDED", 60)

            await asyncio.to_thread(deploy)
            sent = Counter(payload[:32] for payload in spy.payloads)
            return len(sent), sum(sent.values())

    blocks, frames = asyncio.run(run())
    assert blocks > 150
    assert frames - blocks <= MAX_BLOCKS + 1  # and the manifest
    cost = model(node, "big")["delivery"]
    assert 0 < cost["received"] < blocks * 64 * 1024 * 0.75  # the rest had come before
