"""One node of this machine's own hardware: a model is deployed, used, replaced by a broken one that is refused; its
worker is killed and comes back (``serving``)."""

from __future__ import annotations

import statistics
import time

import numpy as np

from tests.demo import serving
from tests.demo.show import say, show
from tests.system.digits import ask_digits, break_digits
from tests.system.stage import ROOT, Node, Stage

BUDGET = ("--latency-p99", "20ms", "--rate", "10/s")


def deploy(it: Stage, reference: str, expect: int = 0) -> None:
    command = ("fleet", "deploy", reference, "--node", "demo-node", *BUDGET, "--wait", "--home", str(it.home))
    show(*command, expect=expect)


def ask(node: Node) -> None:
    """The held-out digits, one request each, over one HTTP connection."""
    with np.load(ROOT / "models/digits/test.npz") as test:
        images, labels = test["images"], test["labels"]
    guesses, seconds = ask_digits(node.port, images)
    accuracy = float(np.mean(guesses == labels))
    p50, p99 = statistics.median(seconds) * 1e3, sorted(seconds)[int(0.99 * len(seconds))] * 1e3
    print(
        f"{len(labels)} held-out digits over HTTP: accuracy {accuracy:.1%}, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    )
    if accuracy < 0.95:
        raise SystemExit("demo: the accuracy is lower than that of the model")


def update(it: Stage, node: Node) -> None:
    """The next version, made of the float model alone."""
    say("from the trained float model to the next version: quantise, judge on held-out digits, pack, deploy")
    folder, package, digits = it.folder / "digits", it.folder / "digits-1.0.1", ROOT / "models/digits"
    data = ("--calibrate", str(digits / "calibrate.npz"), "--eval", str(digits / "test.npz"))
    what = ("--name", "digits", "--version", "1.0.1", "--targets", "cpu", "--boards", "")
    show("fleet", "prepare", str(digits / "digits-fp32.onnx"), *data, *what, "-o", str(folder))
    show("fleet", "pack", str(folder), "-o", str(package))
    show("fleet", "publish", str(package), "--home", str(it.home))
    deploy(it, "digits@1.0.1")
    ask(node)


def play(it: Stage) -> None:
    """Ends with the node running; SystemExit when something did not go as it should."""
    home = str(it.home)
    say("start a node")
    node = it.node("demo-node")
    node.start()
    say("who may sign what: root keys offline, 2 of 3; a key for each team (operator)")
    show("fleet", "repo", "status", "--home", home)
    say("pack a model and publish it, signed by the team")
    show("fleet", "pack", str(ROOT / "models/digits"), "-o", str(it.folder / "digits-1.0.0"))
    show("fleet", "publish", str(it.folder / "digits-1.0.0"), "--home", home)
    say("deploy it with a budget: p99 latency 20 ms at 10 requests a second")
    deploy(it, "digits@1.0.0")
    say("what the node chose, and why")
    show("explain", "digits", "--config", str(node.config))
    say("use it")
    ask(node)
    update(it, node)
    say("deploy a broken version: its golden vectors disagree, so it is refused")
    broken = break_digits(it.folder / "broken", "1.1.0")
    it.publish(broken, "--no-check")
    deploy(it, "digits@1.1.0", expect=1)
    ask(node)
    serving.play(it, node)
    say("the node, and what it recorded")
    time.sleep(2.0)  # latencies reach the database in batches of a second
    show("status", "--config", str(node.config))
    show("telemetry", "--since", "1h", "--config", str(node.config))
