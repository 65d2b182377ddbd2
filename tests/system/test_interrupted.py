"""kill -9 of the daemon in each phase, and a broker that goes away in mid-transfer: the model in service answers on,
the deployment ends truthfully, nothing is half-installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agent.control import client
from agent.errors import OverlaidError
from tests.system.bigmodel import make_big_model
from tests.system.digits import DIGITS, ask_digits
from tests.system.stage import Node, Stage, stage, wait_until

BUDGET = ("--latency-p99", "2s", "--rate", "0.1/s")
PHASES = ("DOWNLOADING", "VERIFYING", "PROFILING", "ACTIVATING", "SOAKING")


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("interrupted")) as it:
        it.serve()
        it.publish(DIGITS)
        yield it


@pytest.fixture(scope="module")
def node(it: Stage) -> Node:
    node = it.node("n1")
    node.start()
    it.fleet("deploy", "digits@1.0.0", "--node", "n1", *BUDGET, "--wait")
    return node


def model(node: Node, name: str) -> dict[str, Any]:
    """Straight from the control socket: fast enough to see a phase that lasts 50 ms."""
    try:
        answer = next(iter(client.call(node.runtime / "control.sock", "snapshot")))
    except OverlaidError:
        return {}
    models = answer.get("ok", answer)["models"]
    return next((m for m in models if m["name"] == name), {})


def digits_answer(node: Node) -> bool:
    with np.load(DIGITS / "test.npz") as test:
        images, labels = test["images"][:20], test["labels"][:20]
    guesses, _ = ask_digits(node.port, images)
    return bool(np.mean(guesses == labels) > 0.8)


@pytest.mark.parametrize("phase", PHASES)
def test_kill_9_in_each_phase(it: Stage, node: Node, phase: str) -> None:
    version = f"1.0.{PHASES.index(phase)}"
    it.publish(make_big_model(it.folder / f"big-{version}", "big", version, seed=PHASES.index(phase)))
    it.fleet("deploy", f"big@{version}", "--node", "n1", *BUDGET)

    def reached() -> bool:
        now = model(node, "big")
        assert not (now.get("version") == version and now.get("state") == "SUCCEEDED"), (
            f"{phase} was never seen"
        )
        return bool(now.get("version") == version and now.get("phase") == phase)

    while not reached():
        pass
    node.kill()
    node.start()
    wait_until("digits after the restart", lambda: node.request("GET", "/v2/models/digits/ready")[0] == 200)
    assert digits_answer(node)
    wait_until(
        f"big {version} after the kill",
        lambda: (m := model(node, "big")).get("state") == "SUCCEEDED" and m.get("running_version") == version,
        60,
    )
    assert digits_answer(node)
    assert not list((node.state / "store").rglob("*.tmp"))


def test_the_broker_goes_away_in_mid_transfer(it: Stage, node: Node) -> None:
    it.publish(make_big_model(it.folder / "big-2", "big", "2.0.0", seed=42))
    it.fleet("deploy", "big@2.0.0", "--node", "n1", *BUDGET)

    def downloading() -> bool:
        now = model(node, "big")
        return (
            now.get("version") == "2.0.0"
            and now.get("phase") == "DOWNLOADING"
            and (now.get("progress") or 0) > 0.05
        )

    while not downloading():
        assert model(node, "big").get("state") != "FAILED"
    it.broker.stop()
    it.broker.start()
    assert digits_answer(node)
    wait_until(
        "big 2.0.0",
        lambda: (m := model(node, "big")).get("state") == "SUCCEEDED" and m.get("running_version") == "2.0.0",
        90,
    )
