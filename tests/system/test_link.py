"""MqttLink against real brokers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import LinkError
from agent.link.backoff import Backoff
from agent.link.client import MAX_PAYLOAD_BYTES, MqttLink, MqttSettings, Will
from agent.link.network import MAX_BACKLOG
from agent.link.outbox import Outbox
from agent.link.values import MAX_OUTGOING
from tests.system.brokers import Broker, free_port, start_mosquitto, start_nats
from tests.system.certificates import Authority
from tests.system.links import QUICK, Recorded, until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with start_mosquitto(tmp_path / "broker") as running:
        yield running


def talk(broker: Broker) -> None:
    """What every broker must do: QoS 1, QoS 0, retained messages, the last will."""

    async def run() -> None:
        async with Recorded(broker, "reader") as reader, Recorded(broker, "writer") as writer:
            await reader.ready()
            await writer.ready()
            await writer.publish("t/kept", b"kept", qos=1, retain=True)
            granted: list[tuple[str, bool]] = []
            reader.on_subscribed = lambda *told: granted.append(told)
            reader.subscribe("t/#", 1)
            await until(lambda: b"kept" in reader.payloads)
            assert granted == [("t/#", True)]
            assert reader.messages[0].retain
            await writer.publish("t/a", b"one", qos=1)
            await writer.publish("t/a", b"zero", qos=0)
            await until(lambda: set(reader.payloads) == {b"kept", b"one", b"zero"})
            reader.unsubscribe("t/#")
            mortal = Recorded(broker, "mortal", will=Will("w/mortal", b"gone"))
            mortal.start()
            assert await mortal.connected(10)
            reader.subscribe("w/+", 1)
            await reader.ready()
            await writer.publish("t/unheard", b"?", qos=1)
            mortal.cut()
            await until(lambda: b"gone" in reader.payloads)
            assert b"?" not in reader.payloads
            await mortal.stop()

    asyncio.run(run())


def test_mosquitto_carries_messages_and_the_last_will(broker: Broker) -> None:
    talk(broker)


def test_nats_carries_messages_and_the_last_will(tmp_path: Path) -> None:
    with start_nats(tmp_path / "nats") as nats:
        talk(nats)


def test_stop_says_farewell_and_no_last_will_follows(broker: Broker) -> None:
    async def run() -> None:
        async with Recorded(broker, "reader") as reader:
            reader.subscribe("status", 1)
            await reader.ready()
            async with Recorded(broker, "node", will=Will("status", b"vanished")) as node:
                assert await node.connected(10)
                await node.stop(("status", b"stopped"))
                assert not node.is_connected
                await node.stop()
            async with Recorded(broker, "marker") as marker:
                assert await marker.connected(10)
                await marker.publish("status", b"after", qos=1)
            await until(lambda: b"after" in reader.payloads)
            assert reader.payloads == [b"stopped", b"after"]

    asyncio.run(run())


def test_a_message_that_was_not_acknowledged_comes_again(broker: Broker) -> None:
    async def run() -> None:
        async with Recorded(broker, "writer") as writer:
            async with Recorded(broker, "node", clean=False, ack=False) as node:
                node.subscribe("c/#", 1)
                await node.ready()
                await writer.ready()
                await writer.publish("c/1", b"first", qos=1)
                await writer.publish("c/2", b"second", qos=1)
                await until(lambda: len(node.messages) == 2)
                first = node.messages[0]
                first.ack()
                first.ack()
                await node.ready()  # the acknowledgement went ahead of it
                node.cut()
                await until(lambda: len(node.messages) == 3)
                assert node.payloads[2] == b"second"
                node.messages[1].ack()  # of the connection before: must not acknowledge anything on this one
                await node.ready()
            async with Recorded(broker, "node", clean=False) as again:
                await until(lambda: len(again.messages) == 1)
                assert again.payloads == [b"second"]
                await again.ready()
            async with Recorded(broker, "node", clean=False) as last:
                assert await last.connected(10)
                await writer.publish("c/3", b"third", qos=1)
                await until(lambda: last.messages)
                assert last.payloads == [b"third"]

    asyncio.run(run())


@pytest.mark.parametrize("clean", [True, False])
def test_a_restarted_broker_is_found_again_with_all_subscriptions(tmp_path: Path, clean: bool) -> None:
    async def run(broker: Broker) -> None:
        async with (
            Recorded(broker, "node", clean=clean) as node,
            Recorded(broker, "writer", clean=clean) as writer,
        ):
            node.subscribe("a", 1)
            node.subscribe("b/+", 1)
            assert await node.connected(10) and await writer.connected(10)
            broker.kill()  # without saving: a persistent session is lost as well
            await until(lambda: not node.is_connected and not writer.is_connected)
            waiting = [writer.publish("a", b"%d" % index, qos=1) for index in range(200)]
            waiting.append(writer.publish("b/c", b"last", qos=1))
            await asyncio.sleep(0.3)
            assert not any(future.done() for future in waiting)
            with pytest.raises(LinkError, match="not connected"):
                await writer.publish("a", b"now or never", qos=0)
            node_back = node.connections
            broker.start()
            await until(lambda: node.connections > node_back)
            await asyncio.wait_for(asyncio.gather(*waiting), 10)
            await writer.publish("b/c", b"end", qos=1)
            await until(lambda: b"end" in node.payloads)
            assert node.reasons
            if node.payloads[0] == b"0":  # subscribed before the writer came back
                assert node.payloads == [b"%d" % index for index in range(200)] + [b"last", b"end"]

    with start_mosquitto(tmp_path / "broker") as broker:
        asyncio.run(run(broker))


def test_publishes_under_way_when_the_connection_breaks_arrive(broker: Broker) -> None:
    async def run() -> None:
        async with (
            Recorded(broker, "node", clean=False) as node,
            Recorded(broker, "writer", clean=False) as writer,
        ):
            node.subscribe("n", 1)
            await node.ready()
            await writer.ready()
            futures = []
            for index in range(500):
                futures.append(writer.publish("n", b"%d" % index, qos=1))
                if index % 100 == 50:
                    await asyncio.sleep(0)
                    writer.cut()
                    await until(lambda: not writer.is_connected)
                    await writer.connected(10)
            await asyncio.wait_for(asyncio.gather(*futures), 20)
            await until(lambda: len(set(node.payloads)) == 500)
            firsts = list(dict.fromkeys(node.payloads))
            assert firsts == [b"%d" % index for index in range(500)]

    asyncio.run(run())


def test_no_publish_is_left_waiting_for_ever() -> None:
    async def run() -> None:
        settings = MqttSettings("127.0.0.1", free_port(), "x")
        link = MqttLink(settings, backoff=QUICK)
        with pytest.raises(LinkError, match="not started"):
            await link.publish("t", b"")
        link.start()
        waiting = [link.publish("t", b"", qos=1) for _ in range(MAX_OUTGOING)]
        with pytest.raises(LinkError, match="wait for"):
            await link.publish("t", b"", qos=1)
        assert not any(future.done() for future in waiting)
        waiting[0].cancel()
        await link.stop()
        assert all(isinstance(future.exception(), LinkError) for future in waiting[1:])
        with pytest.raises(LinkError, match="stopped"):
            await link.publish("t", b"", qos=1)
        with pytest.raises(RuntimeError):
            link.start()

    asyncio.run(run())


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "x" * 1001])
def test_topics_that_are_none_are_refused(topic: str) -> None:
    async def run() -> None:
        link = MqttLink(MqttSettings("127.0.0.1", free_port(), "x"), backoff=QUICK)
        link.start()
        with pytest.raises(LinkError, match="not a topic"):
            await link.publish(topic, b"", qos=1)
        with pytest.raises(ValueError, match="topic filter"):
            link.subscribe("a/#/b", 1)
        await link.stop()

    asyncio.run(run())


def test_oversized_payloads_are_refused_and_dropped(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with Recorded(broker, "reader") as reader, Recorded(broker, "writer") as writer:
            reader.subscribe("big", 1)
            await reader.ready()
            await writer.ready()
            with pytest.raises(LinkError, match="more than"):
                await writer.publish("big", b"x" * (MAX_PAYLOAD_BYTES + 1), qos=1)
            monkeypatch.setattr("agent.link.client.MAX_PAYLOAD_BYTES", 2 * MAX_PAYLOAD_BYTES)
            await writer.publish("big", b"x" * (MAX_PAYLOAD_BYTES + 1), qos=1)
            await writer.publish("big", b"x" * MAX_PAYLOAD_BYTES, qos=1)
            await until(lambda: reader.messages)
            assert [len(payload) for payload in reader.payloads] == [MAX_PAYLOAD_BYTES]

    asyncio.run(run())
    assert any("dropped" in record.message for record in caplog.records)


def test_a_slow_event_loop_holds_the_broker_back_and_loses_nothing(broker: Broker) -> None:
    async def run() -> None:
        handled = 0

        def slow(_: object) -> None:
            nonlocal handled
            handled += 1

        async with Recorded(broker, "writer") as writer:
            reader = Recorded(broker, "reader")
            reader.on_message = slow
            reader.start()
            reader.subscribe("flood", 1)
            await reader.ready()
            await writer.ready()
            futures = [writer.publish("flood", bytes(256 * 1024), qos=0) for _ in range(100)]
            await asyncio.gather(*futures)
            await until(lambda: handled == 100)
            await reader.stop()

    asyncio.run(run())


def test_a_flood_of_small_messages_does_not_pile_up_before_the_event_loop(broker: Broker) -> None:
    async def run() -> None:
        async with Recorded(broker, "writer") as writer, Recorded(broker, "reader") as reader:
            reader.subscribe("flood", 0)
            await reader.ready()
            await writer.ready()
            futures = [writer.publish("flood", b"x", qos=0) for _ in range(900)]
            time.sleep(1.0)  # noqa: ASYNC251  # the loop is busy, the networks' threads are not
            waiting = reader._network._received - reader._network.handled
            assert MAX_BACKLOG <= waiting <= MAX_BACKLOG + 1
            await asyncio.gather(*futures)
            await until(lambda: len(reader.messages) == 900)

    asyncio.run(run())


async def first_reason(link: Recorded) -> str:
    async with link:
        await until(lambda: len(link.reasons) > 1)  # it tries again
        assert not link.is_connected
    return link.reasons[0]


def test_wrong_password_is_named_and_never_shown(tmp_path: Path) -> None:
    with start_mosquitto(tmp_path, users={"node": "right"}) as broker:
        wrong = Recorded(broker, "a", username="node", password="wr0ng-secret")
        reason = asyncio.run(first_reason(wrong))
        assert "mqtt.password_file" in reason
        assert "\n" not in reason
        assert "wr0ng-secret" not in reason + repr(wrong.settings)

        async def right() -> None:
            async with Recorded(broker, "b", username="node", password="right") as link:
                assert await link.connected(10)

        asyncio.run(right())


def test_what_is_wrong_with_the_address_is_named(tmp_path: Path) -> None:
    with start_mosquitto(tmp_path) as broker:
        nobody = Recorded(broker, "a")
        nobody.settings = nobody._network._settings = MqttSettings("127.0.0.1", free_port(), "a")
        assert "nothing listens" in asyncio.run(first_reason(nobody))
        unknown = Recorded(broker, "b")
        unknown.settings = unknown._network._settings = MqttSettings("no-such-host.invalid", 1883, "b")
        assert "no-such-host.invalid does not resolve" in asyncio.run(first_reason(unknown))


def test_a_server_that_is_no_broker_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reasons: list[str] = []
            link = MqttLink(MqttSettings("127.0.0.1", port, "x"), on_disconnect=reasons.append, backoff=QUICK)
            link.start()
            await until(lambda: reasons)
            await link.stop()
        assert "closed the connection before it answered" in reasons[0]

    asyncio.run(run())


def test_tls_checks_the_brokers_certificate(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with start_mosquitto(tmp_path / "broker", tls=True) as broker:

        async def good() -> None:
            async with Recorded(broker, "good") as link:
                assert await link.connected(10), link.reasons
                await link.publish("t", b"x" * 500_000, qos=1)

        asyncio.run(good())
        stranger = Recorded(broker, "a", ca=Authority(other).ca)
        assert "check mqtt.ca" in asyncio.run(first_reason(stranger))
        plain = Recorded(broker, "b", ca=None)
        assert "TLS or not" in asyncio.run(first_reason(plain))
        lost = Recorded(broker, "c", ca=tmp_path / "absent.pem")
        assert "mqtt.ca: cannot read" in asyncio.run(first_reason(lost))
        misnamed = Recorded(broker, "d")
        misnamed.settings = misnamed._network._settings = MqttSettings(
            "localhost", broker.port, "d", ca=broker.ca
        )
        assert "check mqtt.ca, mqtt.host" in asyncio.run(first_reason(misnamed))


def test_tls_to_a_plain_port_is_named(broker: Broker, tmp_path: Path) -> None:
    reason = asyncio.run(first_reason(Recorded(broker, "a", ca=Authority(tmp_path).ca)))
    assert "TLS" in reason and "mqtt.port" in reason


def test_a_client_certificate_is_the_user_name(tmp_path: Path) -> None:
    acl = "pattern readwrite of/%u\n"
    with start_mosquitto(tmp_path / "broker", tls=True, require_certificate=True, acl=acl) as broker:
        assert broker.authority is not None
        pair = broker.authority.issue("node-1")

        async def run() -> None:
            async with Recorded(broker, "a", cert=pair.cert, key=pair.key) as link:
                link.subscribe("of/#", 1)
                await link.ready()
                await link.publish("of/node-2", b"forbidden", qos=1)
                await link.publish("of/node-1", b"mine", qos=1)
                await until(lambda: link.messages)
                assert link.payloads == [b"mine"]

        asyncio.run(run())
        without = Recorded(broker, "b")
        assert "mqtt.cert" in asyncio.run(first_reason(without))
        mixed = Recorded(broker, "c", cert=pair.cert, key=broker.authority.issue("other").key)
        assert "mqtt.cert and mqtt.key" in asyncio.run(first_reason(mixed))


def test_stop_ends_while_the_broker_is_silent() -> None:
    async def run() -> None:
        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        async with server:
            link = MqttLink(
                MqttSettings("127.0.0.1", server.sockets[0].getsockname()[1], "x"), backoff=Backoff()
            )
            link.start()
            assert not await link.connected(0.2)
            waiting = link.publish("t", b"", qos=1)
            await link.stop(("status", b"bye"))
            assert isinstance(waiting.exception(), LinkError)

    asyncio.run(run())


def test_a_broker_that_falls_silent_is_noticed(broker: Broker) -> None:
    async def run() -> None:
        async with Recorded(broker, "node", clean=False, keepalive_s=1) as node:
            assert await node.connected(10)
            broker.process.send_signal(signal.SIGSTOP)
            try:
                await until(lambda: node.reasons)
                waiting = node.publish("t", b"", qos=1)
            finally:
                broker.process.send_signal(signal.SIGCONT)
            await asyncio.wait_for(waiting, 10)
            assert node.connections >= 2

    asyncio.run(run())


def test_the_outbox_empties_in_order_across_broker_and_process_restarts(
    broker: Broker, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"

    async def first() -> None:
        box = Outbox(path, 1 << 20)
        for index in range(60):
            box.put("o", b"%d" % index)
        broker.stop()
        async with Recorded(broker, "node") as link:
            run = asyncio.create_task(box.run(link))
            await until(lambda: link.reasons)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        assert len(box) == 60
        box.close()

    async def second() -> None:
        box = Outbox(path, 1 << 20)
        async with Recorded(broker, "reader", clean=False) as reader, Recorded(broker, "node") as link:
            run = asyncio.create_task(box.run(link))
            reader.subscribe("o", 1)
            broker.start()
            assert await reader.connected(10)
            await until(lambda: len(box) == 0)
            box.put("o", b"late")
            await until(lambda: len(box) == 0)
            await until(lambda: b"late" in reader.payloads)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            numbers = [int(payload) for payload in reader.payloads if payload != b"late"]
            assert numbers == sorted(numbers)
        box.close()

    asyncio.run(first())
    asyncio.run(second())
