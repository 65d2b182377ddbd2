"""``make demo``: the whole product on this machine, without a board.

A broker, the operator's block server and one node; a model is deployed, used, replaced by a broken one that is
refused, its worker is killed and comes back. Every step is an ``overlaid`` command that a user could type.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.system.digits import ask_digits, break_digits
from tests.system.stage import OVERLAID, ROOT, Node, Stage, alive, children_of, stage, wait_until

BUDGET = ("--latency-p99", "20ms", "--rate", "10/s")


def say(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def _short(argument: str) -> str:
    """Paths as they would be typed in the clone, the demo's own folder left out."""
    return re.sub(r"/tmp/\S+?/(?=[^/ ]+$)", "", argument.replace(f"{ROOT}/", ""))


def show(*args: str, expect: int = 0) -> None:
    """Run a command as the user sees it: the command line, then its output as it comes."""
    visible = " ".join(_short(arg) for arg in args)
    print(f"$ overlaid {visible}", flush=True)
    code = subprocess.run([str(OVERLAID), *args], check=False).returncode
    if code != expect:
        raise SystemExit(f"demo: overlaid {args[0]} ended with {code}, expected {expect}")


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


def is_ready(node: Node) -> bool:
    """Whether digits answers; a connection that the dying worker held is cut, which is no answer."""
    try:
        return node.request("GET", "/v2/models/digits/ready")[0] == 200
    except ConnectionError:
        return False


def kill_worker(node: Node) -> None:
    model: dict[str, Any] = node.model("digits") or {}
    print(f"kill -9 {model['pid']}   (the worker of digits)")
    os.kill(model["pid"], signal.SIGKILL)
    started = time.monotonic()
    wait_until("the next answer", lambda: is_ready(node), 20)
    print(f"digits is ready again {time.monotonic() - started:.2f} s later; the daemon is the same process")


def play(it: Stage) -> None:
    home = str(it.home)
    it.serve()
    node = it.node("demo-node")
    node.start()
    say("pack, sign and publish a model (operator)")
    show("fleet", "pack", str(ROOT / "models/digits"), "-o", str(it.folder / "digits-1.0.0"), "--home", home)
    show("fleet", "publish", str(it.folder / "digits-1.0.0"), "--home", home)
    say("deploy it with a budget: p99 latency 20 ms at 10 requests a second")
    deploy(it, "digits@1.0.0")
    say("what the node chose, and why")
    show("explain", "digits", "--config", str(node.config))
    say("use it")
    ask(node)
    say("deploy a broken version: its golden vectors disagree, so it is refused")
    broken = break_digits(it.folder / "broken", "1.1.0")
    it.publish(broken, "--no-check")
    deploy(it, "digits@1.1.0", expect=1)
    ask(node)
    say("kill the worker: only its model pauses")
    kill_worker(node)
    ask(node)
    say("the node, and what it recorded")
    time.sleep(2.0)  # latencies reach the database in batches of a second
    show("status", "--config", str(node.config))
    show("telemetry", "--since", "1h", "--config", str(node.config))
    say("stop everything")
    assert node.process is not None
    started = [node.process.pid, *children_of(node.process.pid)]
    it.close()
    left = [pid for pid in started if alive(pid)]
    if left:
        raise SystemExit(f"demo: still running: {left}")
    print("nothing is left running")


def main() -> int:
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="overlaid-demo-"))
    try:
        say("start a broker, the operator's block server and one node")
        with stage(folder) as it:
            print(f"broker: {it.broker.name} on {it.broker.host}:{it.broker.port}")
            play(it)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\ndemo done in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
