"""The sample broker configuration (systemd/mosquitto), run as it is but for paths and port."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.link.client import Will
from agent.link.topics import Target, block_data, block_requests, metadata_data, metadata_requests
from tests.system.brokers import Broker, find_mosquitto, free_port
from tests.system.certificates import Authority
from tests.system.links import Recorded, until

SAMPLE = Path(__file__).parents[2] / "systemd" / "mosquitto"
PASSWORDS = {"operator": "o-secret", "cam-7": "c7-secret", "cam-8": "c8-secret"}
DIGEST = "ab" * 32
SEVEN, EIGHT = Target("plant", "cam-7"), Target("plant", "cam-8")
LINE_1, LINE_2 = Target("plant", "line-1", group=True), Target("plant", "line-2", group=True)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    program = find_mosquitto()
    assert program is not None, "apt-get install mosquitto"
    authority = Authority(tmp_path)
    authority.issue("broker")
    (tmp_path / "acl").write_text((SAMPLE / "acl").read_text())
    passwords = tmp_path / "passwd"
    passwords.write_text("".join(f"{user}:{password}\n" for user, password in PASSWORDS.items()))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True, timeout=30)
    for name in ("acl", "passwd", "broker.key"):
        (tmp_path / name).chmod(0o600)
    port = free_port()
    config = (SAMPLE / "mosquitto.conf").read_text()
    config = config.replace("/etc/mosquitto/overlaid/", f"{tmp_path}/").replace(
        "/var/lib/mosquitto/", f"{tmp_path}/"
    )
    config = config.replace("listener 8883", f"listener {port} 127.0.0.1")
    if os.geteuid() == 0:
        config += "user root\n"
    (tmp_path / "mosquitto.conf").write_text(config)
    with Broker(
        "mosquitto",
        [program, "-c", str(tmp_path / "mosquitto.conf")],
        port,
        tmp_path / "broker.log",
        authority,
    ) as running:
        yield running


def as_user(broker: Broker, user: str, will: Will | None = None) -> Recorded:
    return Recorded(broker, f"overlaid_{user}", username=user, password=PASSWORDS[user], will=will)


def test_each_may_publish_and_receive_its_own_and_nothing_else(broker: Broker) -> None:
    from_seven = [
        (SEVEN.reported, True),
        (SEVEN.status, True),
        (SEVEN.capabilities, True),
        (SEVEN.result("logs", "1"), True),
        (SEVEN.telemetry("summary"), True),
        (block_requests("plant", DIGEST), True),
        (metadata_requests("plant"), True),
        (SEVEN.desired, False),
        (SEVEN.command("logs", "1"), False),
        (EIGHT.reported, False),
        (EIGHT.status, False),
        (EIGHT.desired, False),
        (EIGHT.result("logs", "1"), False),
        (LINE_1.desired, False),
        (block_data("plant", DIGEST), False),
        (metadata_data("plant", "timestamp.json"), False),
        ("elsewhere", False),
    ]
    from_operator = [
        (SEVEN.desired, True),
        (SEVEN.command("logs", "2"), True),
        (LINE_1.desired, True),
        (LINE_1.command("logs", "2"), True),
        (block_data("plant", DIGEST), True),
        (metadata_data("plant", "timestamp.json"), True),
        (EIGHT.desired, False),
        (EIGHT.command("logs", "2"), False),
        (LINE_2.desired, False),
        (EIGHT.reported, False),
    ]

    async def run() -> None:
        async with AsyncExitStack() as stack:
            operator = await stack.enter_async_context(as_user(broker, "operator"))
            seven = await stack.enter_async_context(as_user(broker, "cam-7"))
            eight = await stack.enter_async_context(as_user(broker, "cam-8"))
            for link in (operator, seven, eight):
                link.subscribe("#", 1)
                await link.ready()

            for topic, _ in from_seven:
                await seven.publish(topic, b"from cam-7", qos=1)
            await eight.publish(EIGHT.reported, b"last of cam-8", qos=1)
            await until(lambda: b"last of cam-8" in operator.payloads)
            heard = {message.topic for message in operator.messages if message.payload == b"from cam-7"}
            assert heard == {topic for topic, allowed in from_seven if allowed}
            assert not seven.messages and not eight.messages

            for topic, _ in from_operator:
                await operator.publish(topic, b"from operator", qos=1)
            await operator.publish(SEVEN.desired, b"last", qos=1)
            await until(lambda: b"last" in seven.payloads)
            heard = {message.topic for message in seven.messages if message.payload == b"from operator"}
            assert heard == {topic for topic, allowed in from_operator if allowed}
            assert b"from cam-7" not in seven.payloads
            await until(lambda: len(eight.messages) == 4)
            assert {message.topic for message in eight.messages} == {
                EIGHT.desired,
                EIGHT.command("logs", "2"),
                block_data("plant", DIGEST),
                metadata_data("plant", "timestamp.json"),
            }

    asyncio.run(run())


def test_the_last_will_of_a_node_is_its_own(broker: Broker) -> None:
    async def run() -> None:
        async with as_user(broker, "operator") as operator:
            operator.subscribe("overlaid/v1/+/+/status", 1)
            await operator.ready()
            async with as_user(broker, "cam-8", Will(SEVEN.status, b"forged")) as forger:
                assert await forger.connected(10)
                forger.cut()
                await until(lambda: forger.reasons)
            async with as_user(broker, "cam-7", Will(SEVEN.status, b"offline")) as seven:
                assert await seven.connected(10)
                seven.cut()
                await until(lambda: operator.messages)
            assert operator.payloads == [b"offline"]

    asyncio.run(run())


def test_without_a_password_or_with_another_nodes_nobody_enters(broker: Broker) -> None:
    async def run() -> None:
        nobody = Recorded(broker, "nobody")
        other = Recorded(broker, "other", username="cam-7", password=PASSWORDS["cam-8"])
        async with nobody, other:
            await until(lambda: nobody.reasons and other.reasons)
            assert "mqtt.username" in nobody.reasons[0] and "mqtt.username" in other.reasons[0]

    asyncio.run(run())
