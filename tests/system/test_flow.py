"""The main job with real processes: broker, operator, node; deploy, serve, refuse, recover, undeploy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.system.brokers import start_nats
from tests.system.digits import DIGITS, ask_digits, break_digits
from tests.system.stage import Node, Stage, alive, children_of, stage, wait_until

BUDGET = ("--latency-p99", "50ms", "--rate", "10/s")


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("flow")) as it:
        it.serve()
        it.publish(DIGITS)
        it.publish(break_digits(it.folder / "broken", "1.1.0"), "--no-check")
        yield it


@pytest.fixture(scope="module")
def node(it: Stage) -> Node:
    node = it.node("n1")
    node.start()
    return node


def deploy(it: Stage, reference: str, *options: str, to: str = "n1", check: bool = True) -> dict[str, Any]:
    done = it.fleet("deploy", reference, "--node", to, *BUDGET, *options, "--wait", "--json", check=check)
    return {"exit": done.returncode, "out": done.stdout, "err": done.stderr}


def accuracy(node: Node, count: int = 100) -> float:
    with np.load(DIGITS / "test.npz") as test:
        images, labels = test["images"][:count], test["labels"][:count]
    guesses, _ = ask_digits(node.port, images)
    return float(np.mean(guesses == labels))


def deployed(node: Node, version: str = "1.0.0") -> dict[str, Any]:
    def succeeded() -> dict[str, Any] | None:
        model = node.model("digits")
        good = (
            model and model["state"] == "SUCCEEDED" and model["running_version"] == version and model["ready"]
        )
        return model if good else None

    model: dict[str, Any] = wait_until(f"digits {version}", succeeded, 60)
    return model


def test_a_model_is_deployed_over_mqtt_and_answers(it: Stage, node: Node) -> None:
    assert deploy(it, "digits@1.0.0")["exit"] == 0
    model = deployed(node)
    assert model["candidate"]["device"] == "cpu"
    assert accuracy(node) > 0.95
    explained = json.loads(node.run("explain", "digits", "--json").stdout)
    assert {verdict["candidate"]["variant"] for verdict in explained["verdicts"]} == {"fp32", "int8"}
    assert explained["reason"]


def test_mosquitto_sub_sees_the_documented_topics(it: Stage, node: Node) -> None:
    deployed(node)
    command = [
        "mosquitto_sub",
        "-h",
        it.broker.host,
        "-p",
        str(it.broker.port),
        "-t",
        "overlaid/v1/#",
        "-v",
        "-W",
        "2",
    ]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    seen = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines}
    base = "overlaid/v1/demo/n1"
    assert json.loads(seen[f"{base}/status"])["online"] is True
    reported = json.loads(seen[f"{base}/reported"])
    assert [model["name"] for model in reported["models"]] == ["digits"]
    assert reported["revision_seen"] == reported["revision_applied"] >= 1
    assert json.loads(seen[f"{base}/capabilities"])["board"]["devices"][0]["kind"] == "cpu"
    assert set(json.loads(seen[f"{base}/desired"])) == {"kind", "key", "payload", "signature"}


def test_a_broken_version_is_refused_and_the_good_one_answers_on(it: Stage, node: Node) -> None:
    deployed(node)
    refused = deploy(it, "digits@1.1.0", check=False)
    assert refused["exit"] == 1
    assert "GoldenMismatch" in refused["out"] + refused["err"]
    model = node.model("digits")
    assert model is not None
    assert (model["state"], model["version"], model["running_version"]) == ("FAILED", "1.1.0", "1.0.0")
    assert accuracy(node) > 0.95
    it.fleet("rollback", "--node", "n1")
    deployed(node)


def test_a_budget_that_nothing_meets_is_rejected_with_the_numbers(it: Stage, node: Node) -> None:
    deployed(node)
    tight = ("--latency-p99", "1us", "--rate", "1/s", "--wait", "--json")
    done = it.fleet("deploy", "digits@1.0.0", "--node", "n1", *tight, check=False)
    assert done.returncode == 1
    assert "NoFeasibleCandidate" in done.stdout + done.stderr and " ms" in done.stdout + done.stderr
    assert accuracy(node, 10) > 0.8
    it.fleet("rollback", "--node", "n1")
    deployed(node)


def test_a_killed_worker_comes_back_and_the_daemon_lives(node: Node) -> None:
    before = deployed(node)
    assert node.process is not None
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(
        "the worker's successor", lambda: (node.model("digits") or before)["pid"] not in (None, before["pid"])
    )
    assert node.process.poll() is None
    after = deployed(node)
    assert after["restarts"] == before["restarts"] + 1
    assert accuracy(node, 20) > 0.8


def test_commands_do_their_work_and_answer(it: Stage, node: Node) -> None:
    before = deployed(node)
    it.fleet("command", "restart", "--node", "n1", "--model", "digits")
    assert deployed(node)["pid"] != before["pid"]
    bench = json.loads(it.fleet("command", "bench", "--node", "n1", "--model", "digits", "--json").stdout)
    assert "int8" in json.dumps(bench)
    logs = it.fleet("command", "logs", "--node", "n1", "--lines", "20", "--json").stdout
    assert "started" in logs
    missing = it.fleet("command", "restart", "--node", "n1", "--model", "nothing", check=False)
    assert missing.returncode == 1 and "nothing" in missing.stdout + missing.stderr


def test_kill_9_of_the_daemon_leaves_no_worker_and_the_model_comes_back(node: Node) -> None:
    deployed(node)
    assert node.process is not None
    workers = children_of(node.process.pid)
    assert workers
    node.kill()
    wait_until("the workers' end", lambda: not any(alive(pid) for pid in workers), 5)
    down = node.run("status", check=False)
    assert down.returncode == 3 and "digits" in down.stdout
    node.start()
    deployed(node)
    assert accuracy(node, 20) > 0.8


def test_the_broker_goes_away_and_comes_back(it: Stage, node: Node) -> None:
    deployed(node)
    it.broker.stop()
    it.broker.start()
    wait_until("the link", lambda: (node.status() or {}).get("broker_connected"), 30)
    it.fleet("power-cap", "50W", "--node", "n1")
    wait_until("the power cap", lambda: (node.status() or {}).get("power_cap_w") == 50.0)
    it.fleet("power-cap", "none", "--node", "n1")
    assert accuracy(node, 10) > 0.8


def test_a_desired_state_by_an_untrusted_key_is_refused_and_named(it: Stage, node: Node) -> None:
    before = deployed(node)
    it.stop_serving()  # it puts right what a stranger published, at a moment of its own
    stranger = Stage(it.folder / "stranger", it.broker)
    stranger.folder.mkdir()
    stranger.prepare()
    stranger.publish(DIGITS)
    stranger.fleet("deploy", "digits@1.0.0", "--node", "n1", *BUDGET)

    def refusal() -> bool:
        return any("UnknownKey" in text for text in (node.status() or {}).get("warnings", ()))

    wait_until("the refusal", refusal)
    model = node.model("digits")
    assert model is not None and model["pid"] == before["pid"]
    it.fleet("power-cap", "40W", "--node", "n1")  # the operator's next revision replaces the stranger's
    wait_until("the refusal's end", lambda: not refusal())
    it.serve()


def test_groups_reach_their_members(it: Stage, node: Node) -> None:
    deployed(node)
    second = it.node("n2")
    second.start()
    it.fleet("deploy", "digits@1.0.0", "--group", "all", *BUDGET)
    deployed(second)
    assert accuracy(second, 20) > 0.8
    it.fleet("undeploy", "digits", "--group", "all")
    wait_until("the removal", lambda: second.model("digits") is None)
    assert second.request("GET", "/v2/models/digits")[0] == 404
    second.stop()
    deployed(node)  # its own desired state still names the model


def test_undeploy_removes_the_model_and_its_files(it: Stage, node: Node) -> None:
    deployed(node)
    it.fleet("undeploy", "digits", "--node", "n1")
    wait_until("the removal", lambda: node.model("digits") is None)
    assert node.request("POST", "/v2/models/digits/infer", b"{}")[0] == 404
    wait_until("an empty store", lambda: not any((node.state / "store/files").iterdir()))


def test_telemetry_has_it_all(node: Node) -> None:
    told = json.loads(node.run("telemetry", "--since", "1h", "--json").stdout)
    text = json.dumps(told)
    for word in ("SUCCEEDED", "FAILED", "worker-crashed", "digits", "p99"):
        assert word in text
    node.run("telemetry", "--since", "1h", "--plot", str(node.folder / "plot.png"))
    assert (node.folder / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_node_without_a_broker_takes_a_local_package(it: Stage, tmp_path: Path) -> None:
    node = it.node("lonely", mqtt=False)
    node.start()
    node.run("deploy", str(it.publish(DIGITS)), *BUDGET)
    deployed(node)
    assert accuracy(node, 20) > 0.8
    node.run("undeploy", "digits")
    assert node.model("digits") is None
    node.stop()


def test_the_same_flow_through_nats(tmp_path: Path) -> None:
    with stage(tmp_path, start_nats) as it:
        it.serve()
        it.publish(DIGITS)
        node = it.node("n1")
        node.start()
        assert deploy(it, "digits@1.0.0")["exit"] == 0
        assert accuracy(node, 20) > 0.8
        it.fleet("undeploy", "digits", "--node", "n1")
        wait_until("the removal", lambda: node.model("digits") is None)
