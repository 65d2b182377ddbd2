"""Bindings with a real broker, a real daemon and real sensors' commands; the page's example as it is written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.types import Binding
from tests.system.brokers import start_mosquitto, start_nats
from tests.system.digits import DIGITS
from tests.system.links import Recorded, until
from tests.system.models import write_sum
from tests.system.stage import OVERLAID, Node, Stage, stage, wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mqtt-inference.md").read_text()
EXAMPLE = dict(re.findall(r"^```sh ([\w-]+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
BUDGET = ("--latency-p99", "50ms", "--rate", "10/s")
SEVEN = (DIGITS / "seven.raw").read_bytes()


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("bindings"), start_mosquitto) as it:
        it.serve()
        it.publish(DIGITS)
        yield it


@pytest.fixture(scope="module")
def node(it: Stage) -> Node:
    node = it.node("cam-7")
    node.start()
    it.fleet("deploy", "digits@1.0.0", "--node", "cam-7", *BUDGET, "--wait")
    return node


def bind(it: Stage, source: str, to: str, *options: str, model: str = "digits", check: bool = True) -> str:
    topics = ("--from", source, "--to", to)
    done = it.fleet("bind", "--node", "cam-7", "--model", model, *topics, *options, check=check)
    return done.stdout + done.stderr


def unbind(it: Stage, node: Node, source: str) -> None:
    it.fleet("unbind", "--node", "cam-7", "--from", source)
    wait_until("the binding's end", lambda: bound(node, source) is None)


def bound(node: Node, source: str) -> dict[str, Any] | None:
    """The status of the binding that listens to ``source``."""
    found = (node.status() or {"bindings": []})["bindings"]
    return next((each for each in found if each["binding"]["input_topic"] == source), None)


def runs(node: Node, source: str) -> dict[str, Any]:
    def running() -> dict[str, Any] | None:
        found = bound(node, source)
        return found if found and found["state"] == "RUNNING" else None

    status: dict[str, Any] = wait_until(f"the binding of {source}", running)
    return status


def with_sensor(it: Stage, listen: str, act: Callable[[Recorded], Awaitable[None]]) -> None:
    """Run ``act`` with a client of the broker that listens to ``listen``."""

    async def run() -> None:
        async with Recorded(it.broker, "sensor") as sensor:
            sensor.subscribe(listen, 1)
            await sensor.ready()
            sensor.messages.clear()
            await act(sensor)

    asyncio.run(run())


def logits(payload: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(payload, "<f4")


class Shell:
    """Runs the page's commands: the tools and the operator's folder as a user has them, on the stage's port."""

    def __init__(self, it: Stage, folder: Path) -> None:
        for tool in ("mosquitto_pub", "mosquitto_sub"):  # their options of every call
            (folder / tool).write_text(f"-p {it.broker.port}\n")
        self._env = {
            **os.environ,
            "PATH": f"{OVERLAID.parent}:{os.environ['PATH']}",
            "OVERLAID_FLEET": str(it.home),
            "XDG_CONFIG_HOME": str(folder),
        }

    def start(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-ec", EXAMPLE[name]], cwd=ROOT, env=self._env, stdout=subprocess.PIPE, text=True
        )

    def run(self, name: str) -> str:
        process = self.start(name)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        return out

    def answer(self, subscribe: str, publish: str) -> str:
        """What the subscriber prints; the sensor speaks until it has, because it may be the first to be ready."""
        waiting = self.start(subscribe)
        for _ in range(40):
            self.run(publish)
            try:
                return waiting.communicate(timeout=0.5)[0]
            except subprocess.TimeoutExpired:
                continue
        waiting.kill()
        raise AssertionError("no answer")


def test_the_frame_is_a_recorded_one() -> None:
    with np.load(DIGITS / "test.npz") as test:
        assert test["images"][0].astype("<f4").tobytes() == SEVEN and test["labels"][0] == 7


def test_the_pages_example_works_as_written(it: Stage, node: Node, tmp_path: Path) -> None:
    shell = Shell(it, tmp_path)
    assert "bound: sensors/cam-7/frame" in shell.run("bind")
    runs(node, "sensors/cam-7/frame")
    values = [float(value) for value in shell.answer("subscribe", "publish").split()]
    assert len(values) == 10 and int(np.argmax(values)) == 7
    shell.run("bind-json")
    runs(node, "sensors/cam-7/pixels")
    (output,) = json.loads(shell.answer("subscribe-json", "publish-json"))["outputs"]
    assert output["name"] == "logits" and output["shape"] == [1, 10]
    np.testing.assert_allclose(output["data"], values, rtol=1e-6)
    told = shell.run("status")
    assert "sensors/cam-7/frame" in told and "RUNNING" in told
    wait_until("the unbinding", lambda: bound(node, "sensors/cam-7/pixels") is None)
    unbind(it, node, "sensors/cam-7/frame")


def test_raw_and_json_of_many_images_are_what_the_model_says(it: Stage, node: Node) -> None:
    bind(it, "s/raw", "o/raw", "--format", "raw", "--qos", "1")
    bind(it, "s/json", "o/json", "--qos", "1")
    runs(node, "s/raw"), runs(node, "s/json")
    with np.load(DIGITS / "test.npz") as test:
        images, labels = test["images"][:12].astype("<f4"), test["labels"][:12]

    async def act(sensor: Recorded) -> None:
        for image in images:
            await sensor.publish("s/raw", image.tobytes(), 1)
            tensor = {
                "name": "image",
                "datatype": "FP32",
                "shape": [1, 1, 8, 8],
                "data": image.ravel().tolist(),
            }
            await sensor.publish("s/json", json.dumps({"inputs": [tensor]}).encode(), 1)
        await until(lambda: len(sensor.messages) == 24)
        raw = [logits(message.payload) for message in sensor.messages if message.topic == "o/raw"]
        told = [json.loads(m.payload)["outputs"][0]["data"] for m in sensor.messages if m.topic == "o/json"]
        assert [int(np.argmax(each)) for each in raw] == labels.tolist()  # in the order of the messages
        np.testing.assert_allclose(told, raw, rtol=1e-6)

    with_sensor(it, "o/#", act)
    unbind(it, node, "s/raw")
    unbind(it, node, "s/json")


def test_what_is_over_the_rate_is_dropped_and_counted(it: Stage, node: Node) -> None:
    bind(it, "s/fast", "o/fast", "--format", "raw", "--max-rate", "2/s")
    runs(node, "s/fast")

    async def act(sensor: Recorded) -> None:
        for _ in range(50):
            await sensor.publish("s/fast", SEVEN, 1)
        await until(lambda: (bound(node, "s/fast") or {})["received"] == 50)
        await until(lambda: sensor.messages)

    with_sensor(it, "o/fast", act)
    status = wait_until("the answers", lambda: _settled(bound(node, "s/fast")))
    assert status["answered"] >= 1 and status["over_rate"] >= 10
    assert status["errors"] == status["dropped"] == 0
    unbind(it, node, "s/fast")


def _settled(status: dict[str, Any] | None) -> dict[str, Any] | None:
    if status is None:
        return None
    ended = sum(status[key] for key in ("answered", "over_rate", "dropped", "errors"))
    return status if status["received"] == ended else None


def test_errors_are_published_counted_and_recorded(it: Stage, node: Node) -> None:
    bind(it, "s/bad", "o/bad", "--format", "raw")
    runs(node, "s/bad")

    async def act(sensor: Recorded) -> None:
        await sensor.publish("s/bad", b"too short", 1)
        await until(lambda: sensor.messages)
        (message,) = sensor.messages
        told = json.loads(message.payload)
        assert message.topic == "o/bad/error" and told["topic"] == "s/bad"
        assert "9 bytes; one sample has 256: image FP32 [1, 1, 8, 8]" in told["error"]
        await sensor.publish("s/bad", SEVEN, 1)
        await until(lambda: len(sensor.messages) == 2)
        assert int(np.argmax(logits(sensor.messages[1].payload))) == 7

    with_sensor(it, "o/bad/#", act)
    status = bound(node, "s/bad")
    assert status is not None and (status["errors"], status["answered"]) == (1, 1)
    logs = ("command", "logs", "--node", "cam-7", "--lines", "50", "--json")
    wait_until("the event", lambda: "one sample has 256" in it.fleet(*logs).stdout)
    unbind(it, node, "s/bad")


def test_a_retained_frame_is_answered_once(it: Stage, node: Node) -> None:
    async def act(sensor: Recorded) -> None:
        await sensor.publish("s/kept", SEVEN, 1, retain=True)
        bind(it, "s/kept", "o/kept", "--format", "raw")
        await until(lambda: sensor.messages)
        bind(it, "s/+", "o/all", "--format", "raw")  # which brings it anew, to both
        await until(lambda: any(message.topic == "o/all" for message in sensor.messages))
        await sensor.publish("s/kept", b"", 1, retain=True)  # takes it back; and is no frame
        await until(lambda: (bound(node, "s/kept") or {})["errors"] == 1)

    with_sensor(it, "o/+", act)
    status = bound(node, "s/kept")
    assert status is not None and status["answered"] == 1
    unbind(it, node, "s/kept")
    unbind(it, node, "s/+")


def test_a_flood_does_not_stand_before_a_command(it: Stage, node: Node) -> None:
    bind(it, "s/flood", "o/flood", "--format", "raw", "--max-rate", "20/s")
    runs(node, "s/flood")
    target = ["mosquitto_pub", "-h", it.broker.host, "-p", str(it.broker.port), "-t", "s/flood", "-l"]
    feed = subprocess.Popen(["yes", "0123456789abcdef"], stdout=subprocess.PIPE)
    flood = subprocess.Popen(target, stdin=feed.stdout)
    assert feed.stdout is not None
    feed.stdout.close()
    try:
        wait_until("the flood", lambda: (bound(node, "s/flood") or {"received": 0})["received"] > 2000)
        it.fleet("power-cap", "30W", "--node", "cam-7")
        wait_until("the power cap", lambda: (node.status() or {}).get("power_cap_w") == 30.0, 10)
        before = (bound(node, "s/flood") or {})["received"]
        wait_until("that it goes on", lambda: (bound(node, "s/flood") or {})["received"] > before)
        assert flood.poll() is None
    finally:
        flood.kill()
        feed.kill()
        flood.wait(), feed.wait()
    it.fleet("power-cap", "none", "--node", "cam-7")
    unbind(it, node, "s/flood")


def test_a_binding_waits_for_its_model_and_goes_on_with_a_new_version(it: Stage, node: Node) -> None:
    bind(it, "s/sum", "o/sum", "--format", "raw", "--qos", "1", model="sum")
    waiting = wait_until("the binding", lambda: bound(node, "s/sum"))
    assert waiting["state"] == "WAITING" and waiting["why"] == "no model sum is in service here"
    table = it.fleet("status", "cam-7").stdout
    assert "WAITING" in table and "no model sum is in service here" in table
    it.publish(write_sum(it.folder / "sum-1", "1.0.0", size=4))
    it.publish(write_sum(it.folder / "sum-2", "2.0.0", size=6))
    it.fleet("deploy", "sum@1.0.0", "--node", "cam-7", *BUDGET, "--wait")
    runs(node, "s/sum")

    async def act(sensor: Recorded) -> None:
        await sensor.publish("s/sum", np.arange(4, dtype="<f4").tobytes(), 1)
        await until(lambda: sensor.messages)
        assert logits(sensor.messages[0].payload).tolist() == [6.0]
        it.fleet("deploy", "sum@2.0.0", "--node", "cam-7", *BUDGET, "--wait")
        await sensor.publish("s/sum", np.arange(6, dtype="<f4").tobytes(), 1)
        await until(lambda: len(sensor.messages) > 1)
        assert logits(sensor.messages[1].payload).tolist() == [15.0]

    with_sensor(it, "o/sum", act)
    it.fleet("undeploy", "sum", "--node", "cam-7")
    wait_until("waiting again", lambda: (bound(node, "s/sum") or {})["state"] == "WAITING")
    unbind(it, node, "s/sum")


def test_a_worker_that_is_killed_costs_no_binding(it: Stage, node: Node) -> None:
    bind(it, "s/kill", "o/kill", "--format", "raw", "--qos", "1")
    runs(node, "s/kill")

    async def act(sensor: Recorded) -> None:
        await sensor.publish("s/kill", SEVEN, 1)
        await until(lambda: sensor.messages)
        model = node.model("digits")
        assert model is not None
        os.kill(model["pid"], 9)
        await sensor.publish("s/kill", SEVEN, 1)
        await until(lambda: len(sensor.messages) == 2, 20)
        assert sensor.payloads[0] == sensor.payloads[1]

    with_sensor(it, "o/kill", act)
    unbind(it, node, "s/kill")


def test_the_broker_goes_away_and_comes_back(it: Stage, node: Node) -> None:
    bind(it, "s/back", "o/back", "--format", "raw")
    runs(node, "s/back")
    it.broker.stop()
    lost = wait_until("the loss", lambda: _in_state(bound(node, "s/back"), "WAITING"))
    assert str(it.broker.port) in lost["why"]
    it.broker.start()
    runs(node, "s/back")

    async def act(sensor: Recorded) -> None:
        deadline = time.monotonic() + 10
        while not sensor.messages and time.monotonic() < deadline:  # until the subscription is made again
            await sensor.publish("s/back", SEVEN, 1)
            await asyncio.sleep(0.2)
        assert int(np.argmax(logits(sensor.messages[0].payload))) == 7

    with_sensor(it, "o/back", act)
    unbind(it, node, "s/back")


def _in_state(status: dict[str, Any] | None, state: str) -> dict[str, Any] | None:
    return status if status and status["state"] == state else None


def test_a_group_binds_each_of_its_nodes_by_name(it: Stage, node: Node) -> None:
    it.fleet(
        "bind", "--group", "all", "--model", "digits", "--from", "g/{node}/in", "--to", "g/{node}/out",
        "--format", "raw",
    )  # fmt: skip
    runs(node, "g/cam-7/in")

    async def act(sensor: Recorded) -> None:
        await sensor.publish("g/cam-7/in", SEVEN, 1)
        await until(lambda: sensor.messages)
        assert sensor.messages[0].topic == "g/cam-7/out"

    with_sensor(it, "g/+/out", act)
    refused = bind(it, "g/cam-7/out", "g/cam-7/in", check=False)
    assert "for ever" in refused and "g/cam-7/in -> digits -> g/cam-7/out" in refused
    it.fleet("unbind", "--group", "all", "--from", "g/{node}/in")
    wait_until("the group's end", lambda: bound(node, "g/cam-7/in") is None)
    it.fleet("rollback", "--group", "all")
    runs(node, "g/cam-7/in")
    it.fleet("rollback", "--group", "all")
    wait_until("the group's rollback", lambda: bound(node, "g/cam-7/in") is None)


def test_what_cannot_be_bound_is_refused_with_its_name(it: Stage) -> None:
    for source, to, what in (
        ("overlaid/v1/#", "o/x", "agent's own"),
        ("#", "o/x", "agent's own"),
        ("s/x", "o/+", "wildcard"),
        ("s/x", "s/x", "for ever: s/x -> digits -> s/x"),
    ):
        assert what in bind(it, source, to, check=False)
    assert "nothing is bound from s/none" in it.fleet(
        "unbind", "--node", "cam-7", "--from", "s/none", check=False
    ).stderr  # fmt: skip


def test_bindings_survive_kill_9_of_the_daemon(it: Stage, node: Node) -> None:
    bind(it, "s/again", "o/again", "--format", "raw")
    runs(node, "s/again")
    node.kill()
    node.start()
    runs(node, "s/again")

    async def act(sensor: Recorded) -> None:
        await until(lambda: _asked(sensor), 10)

    def _asked(sensor: Recorded) -> bool:
        sensor.publish("s/again", SEVEN, 1)
        return bool(sensor.messages)

    with_sensor(it, "o/again", act)
    unbind(it, node, "s/again")
    binding = Binding("s/again", "digits", "o/again", "raw")
    assert str(binding) not in it.fleet("status", "cam-7").stdout


def test_the_same_through_nats(tmp_path: Path) -> None:
    with stage(tmp_path, start_nats) as it:
        it.serve()
        it.publish(DIGITS)
        node = it.node("cam-7")
        node.start()
        it.fleet("deploy", "digits@1.0.0", "--node", "cam-7", *BUDGET, "--wait")
        bind(it, "sensors/cam-7/frame", "plant/cam-7/digit", "--format", "raw")
        runs(node, "sensors/cam-7/frame")

        async def act(sensor: Recorded) -> None:
            deadline = time.monotonic() + 10
            while not sensor.messages and time.monotonic() < deadline:
                await sensor.publish("sensors/cam-7/frame", SEVEN, 1)
                await asyncio.sleep(0.2)
            assert int(np.argmax(logits(sensor.messages[0].payload))) == 7

        with_sensor(it, "plant/#", act)
