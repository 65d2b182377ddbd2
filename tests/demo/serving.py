"""Ways to a served model: HTTP, the thin client, MQTT; and what clients see while its worker is killed."""

from __future__ import annotations

import os
import queue
import signal
import statistics
import threading
import time
from typing import Any

import numpy as np
from paho.mqtt.client import Client as Mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.serving.client import Client, ModelUnavailable
from tests.demo.show import say, show
from tests.system.digits import DIGITS
from tests.system.stage import Node, Stage, wait_until


def play(it: Stage, node: Node) -> None:
    """``digits`` runs on the node; SystemExit when something did not go as it should."""
    with np.load(DIGITS / "test.npz") as test:
        images = test["images"]
    with Client(node.runtime / "http.sock") as client:
        say(f"the thin client, over the Unix socket (for people, a page: http://127.0.0.1:{node.port}/)")
        walls = [_timed(client, image[None]) for image in images]
        print(f"{len(images)} held-out digits: p50 {statistics.median(walls):.2f} ms")
        say("kill the worker: only its model pauses")
        _crash(node, client, images[:1])
    say("sensors that speak MQTT need no HTTP: bind a topic to the model")
    _mqtt(it, node)


def _timed(client: Client, image: Any) -> float:
    started = time.perf_counter()
    client.infer("digits", {"image": image})
    return (time.perf_counter() - started) * 1e3


def _crash(node: Node, client: Client, image: Any) -> None:
    pid = (node.model("digits") or {})["pid"]
    print(f"kill -9 {pid}   (the worker of digits)")
    os.kill(pid, signal.SIGKILL)
    started, told = time.perf_counter(), ""
    while True:
        try:
            client.infer("digits", {"image": image}, timeout_s=5)
        except ModelUnavailable as error:
            if str(error) != told:
                told = str(error)
                print(f"a client is told: {told}")
            time.sleep(0.005)
        else:
            break
    print(
        f"digits answers {(time.perf_counter() - started) * 1e3:.0f} ms after the kill; the daemon is the same process"
    )


def _mqtt(it: Stage, node: Node) -> None:
    topics = ("--from", "sensors/frame", "--to", "plant/digit", "--format", "raw")
    show("fleet", "bind", "--node", node.name, "--model", "digits", *topics, "--home", str(it.home))
    wait_until("the binding", lambda: [b["state"] for b in (node.status() or {})["bindings"]] == ["RUNNING"])
    listening, answers = threading.Event(), queue.SimpleQueue[bytes]()
    camera = Mqtt(CallbackAPIVersion.VERSION2, client_id="camera")
    camera.on_subscribe = lambda *_: listening.set()
    camera.on_message = lambda _client, _data, message: answers.put(bytes(message.payload))
    camera.connect(it.broker.host, it.broker.port)
    camera.loop_start()
    try:
        camera.subscribe("plant/digit")
        listening.wait(10)
        camera.publish("sensors/frame", (DIGITS / "seven.raw").read_bytes())
        digit = np.frombuffer(answers.get(timeout=10), "<f4").argmax()
        print(f"a recorded frame of a handwritten 7 was published; the answer on plant/digit says {digit}")
    finally:
        camera.loop_stop()
        camera.disconnect()
