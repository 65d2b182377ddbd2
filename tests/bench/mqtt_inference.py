"""From a sensor's MQTT message to the answer's, through a broker and a real daemon.

``mqtt_message_ms``: from publishing a frame of the digits model (256 bytes, raw, QoS 0) to its answer at a subscriber
that runs in this process, median of 1000 one after another. ``mqtt_echo_ms``: the same client hearing its own message
through the same broker, alternating with them; ``mqtt_added_ms``: the difference, which holds a second passage through
the broker, the daemon and the model. ``mqtt_daemon_rss_mb``: VmRSS of the daemon afterwards, its binding active.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.bench.footprint import megabytes
from tests.bench.harness import Figure, main
from tests.system.digits import DIGITS
from tests.system.stage import Node, Stage, stage, wait_until

RUNS = 1000
FRAME = (DIGITS / "seven.raw").read_bytes()


def measure() -> Mapping[str, Figure]:
    with tempfile.TemporaryDirectory(prefix="overlaid-bench-") as folder, stage(Path(folder)) as it:
        node = _bound(it)
        echo, answer = _times(it)
        assert node.process is not None
        rss = megabytes(Path(f"/proc/{node.process.pid}/status"), "VmRSS")
    return {
        "mqtt_message_ms": Figure(answer, "ms"),
        "mqtt_echo_ms": Figure(echo, "ms"),
        "mqtt_added_ms": Figure(answer - echo, "ms"),
        "mqtt_daemon_rss_mb": Figure(rss, "MB", at_most=56),
    }


def _bound(it: Stage) -> Node:
    it.serve()
    it.publish(DIGITS)
    node = it.node("n1")
    node.start()
    it.fleet("deploy", "digits@1.0.0", "--node", "n1", "--latency-p99", "50ms", "--rate", "10/s", "--wait")
    topics = ("--from", "frame", "--to", "answer")
    it.fleet("bind", "--node", "n1", "--model", "digits", *topics, "--format", "raw")
    wait_until("the binding", lambda: [b["state"] for b in (node.status() or {})["bindings"]] == ["RUNNING"])
    return node


def _times(it: Stage) -> tuple[float, float]:
    """Medians in ms: own message heard, answer heard."""
    heard = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, client_id="bench")
    client.on_message = lambda *_: heard.set()
    client.on_subscribe = lambda *_: heard.set()
    client.connect(it.broker.host, it.broker.port)
    client.loop_start()
    try:
        _wait(heard, lambda: client.subscribe([("echo", 0), ("answer", 0)]))
        times: dict[str, list[float]] = {"echo": [], "frame": []}
        for _ in range(RUNS):
            for topic, found in times.items():
                started = time.perf_counter()
                _wait(heard, lambda topic=topic: client.publish(topic, FRAME))
                found.append((time.perf_counter() - started) * 1e3)
    finally:
        client.loop_stop()
        client.disconnect()
    return statistics.median(times["echo"]), statistics.median(times["frame"])


def _wait(heard: threading.Event, act: Any) -> None:
    heard.clear()
    act()
    if not heard.wait(10):
        raise TimeoutError("no message came")


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
