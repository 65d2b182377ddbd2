"""Real daemons and workers on simulated boards: budgets, caps, lost devices, kills, faults of disk and clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.system.digits import ROOT, infer_body
from tests.system.stage import OVERLAID, Node, Stage, stage, wait_until
from tests.system.steady import Steady

MODEL = "camera-digits"
LOOSE = ("--latency-p99", "200ms", "--rate", "2/s")
TIGHT = ("--latency-p99", "10ms", "--rate", "10/s")  # the Zynq's CPU takes 40 ms, its FPGA 3
QUICK = ("--latency-p99", "2ms", "--rate", "10/s")  # the Orin's CPU takes 3 ms, its GPU 1


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("boards")) as it:
        it.serve()
        it.publish(ROOT / "models" / MODEL, "--overlay", "npu")
        nodes = [it.node("zynq", board="sim:pynq-z2"), it.node("orin", board="sim:jetson-orin-nano")]
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait()
        yield it


@pytest.fixture(scope="module")
def zynq(it: Stage) -> Node:
    return it.nodes[0]


@pytest.fixture(scope="module")
def orin(it: Stage) -> Node:
    return it.nodes[1]


def deploy(it: Stage, node: Node, budget: tuple[str, ...], check: bool = True) -> str:
    done = it.fleet("deploy", f"{MODEL}@1.0.0", "--node", node.name, *budget, "--wait", check=check)
    return done.stdout + done.stderr


def model(node: Node) -> dict[str, Any]:
    found = node.model(MODEL)
    assert found is not None
    return found


def runs_on(node: Node) -> str | None:
    found = node.model(MODEL)
    return found["candidate"]["device"] if found and found["candidate"] else None


def wait_for_device(node: Node, device: str, timeout_s: float = 30.0) -> None:
    wait_until(f"{MODEL} on {device}", lambda: runs_on(node) == device, timeout_s)


def sim(node: Node, *args: str) -> None:
    node.run("sim", *args)


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, np.dtype[np.float32]]:
    with np.load(ROOT / "models" / MODEL / "test.npz") as test:
        pixels: np.ndarray[Any, np.dtype[np.uint8]] = test["images"][:20]
    return pixels.reshape(-1, 1, 64, 64).astype(np.float32) / np.float32(255)


def ask(node: Node, image: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[int, dict[str, Any]]:
    return node.request("POST", f"/v2/models/{MODEL}/infer", infer_body(image))


def test_devices_are_shown_as_simulated(zynq: Node) -> None:
    board = json.loads(zynq.run("devices", "--json").stdout)
    assert (board["name"], board["simulated"]) == ("sim:pynq-z2", True)
    assert [(d["id"], d["kind"], d["simulated"]) for d in board["devices"]] == [
        ("cpu", "cpu", True),
        ("fpga", "fpga", True),
    ]
    assert board["meters"] == ["ina260"]
    text = zynq.run("devices").stdout
    assert "simulated" in text
    assert "GMAC/s" in text


def test_a_budget_decides_the_device(it: Stage, zynq: Node) -> None:
    deploy(it, zynq, LOOSE)
    assert runs_on(zynq) == "cpu"
    deploy(it, zynq, TIGHT)
    assert runs_on(zynq) == "fpga"
    explained = json.loads(zynq.run("explain", MODEL, "--json").stdout)
    chosen = next(verdict["measurement"] for verdict in explained["verdicts"] if verdict["chosen"])
    assert chosen["energy"] == "simulated"
    assert 2.0 < chosen["p50_ms"] < 4.0
    assert chosen["holding_w"] == pytest.approx(0.2, abs=0.12)  # simulator/boards/pynq-z2.toml
    assert 1e-3 < chosen["joules"] < 3e-3  # 0.6 W for 2.8 ms


def test_outputs_are_true_and_requests_are_held_back(
    it: Stage, zynq: Node, images: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    deploy(it, zynq, LOOSE)
    with np.load(ROOT / "models" / MODEL / "test.npz") as test:
        labels = test["labels"][: len(images)]
    answers = [ask(zynq, image) for image in images]
    guesses = [int(np.argmax(body["outputs"][0]["data"])) for status, body in answers if status == 200]
    assert np.mean(np.array(guesses) == labels) >= 0.9
    wait_until("the latency", lambda: (model(zynq)["p50_ms"] or 0) > 30.0)  # the host takes 3 ms, the A9 39


def test_a_lower_cap_moves_the_model_and_no_request_fails(
    it: Stage, orin: Node, images: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    deploy(it, orin, QUICK)
    assert runs_on(orin) == "gpu"
    with Steady(orin.port, MODEL, infer_body(images[0])) as client:
        it.fleet("power-cap", "4.5W", "--node", "orin")
        wait_for_device(orin, "cpu")
        seen = sum(client.statuses.values())
        it.fleet("power-cap", "none", "--node", "orin")
        wait_for_device(orin, "gpu")
        wait_until("more answers", lambda: sum(client.statuses.values()) > seen + 20)
    assert set(client.statuses) == {200}
    assert client.broken == 0
    events = json.loads(orin.run("telemetry", "--json").stdout)["events"]
    moved = [event["text"] for event in events if event["kind"] == "replaced"]
    assert any("cap 4.5 W" in text for text in moved)


def test_the_operator_sees_the_new_device_and_why(it: Stage, orin: Node) -> None:
    wait_for_device(orin, "gpu")
    it.fleet("power-cap", "4.5W", "--node", "orin")

    def reported() -> bool:
        status = json.loads(it.fleet("status", "orin", "--json").stdout)
        text = json.dumps(status)
        return '"device": "cpu"' in text and "cap 4.5 W" in text

    wait_until("the report", reported)
    it.fleet("power-cap", "none", "--node", "orin")
    wait_for_device(orin, "gpu")


def test_a_lost_device_is_replaced_and_taken_back(
    it: Stage, zynq: Node, images: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    deploy(it, zynq, TIGHT)
    assert runs_on(zynq) == "fpga"
    with Steady(zynq.port, MODEL, infer_body(images[0])) as client:
        wait_until("answers", lambda: client.statuses[200] > 5)
        sim(zynq, "inject", "device-lost", "fpga")
        wait_for_device(zynq, "cpu")
        before = client.statuses[503]
        wait_until("answers of the CPU", partial(_more, client, client.statuses[200] + 10))
        assert client.statuses[503] <= before + 1
        status = zynq.run("status").stdout
        assert "fpga is lost" in status
        sim(zynq, "clear")
        wait_for_device(zynq, "fpga")
    assert set(client.statuses) <= {200, 503}
    assert client.retry_after <= {"1"}
    assert client.broken == 0
    assert "fpga is lost" not in zynq.run("status").stdout


def _more(client: Steady, count: int) -> bool:
    return client.statuses[200] > count


def test_kills_leave_the_board_whole(
    it: Stage, zynq: Node, images: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    deploy(it, zynq, TIGHT)
    before = board_state(zynq)
    os.kill(model(zynq)["pid"], signal.SIGKILL)
    wait_until("the worker's return", lambda: answers(zynq, images[0]))
    zynq.kill()
    zynq.start()
    wait_until("the model's return", lambda: answers(zynq, images[0]))
    assert runs_on(zynq) == "fpga"
    after = board_state(zynq)
    for was, now in zip(before["devices"], after["devices"], strict=True):
        assert now["runs"] >= was["runs"]
    assert after["devices"][1]["models"] == 1  # what the dead held was released


def answers(node: Node, image: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    found = node.model(MODEL)
    return found is not None and found["ready"] and ask(node, image)[0] == 200


def board_state(node: Node) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(node.run("sim", "show", "--json").stdout)
    return state


def test_a_full_disk_ends_a_deployment_and_heals(it: Stage, orin: Node) -> None:
    it.publish(ROOT / "models" / "digits")
    sim(orin, "inject", "disk-full")
    command = ("deploy", "digits@1.0.0", "--node", "orin", "--latency-p99", "50ms", "--rate", "1/s", "--wait")
    refused = it.fleet(*command, check=False)
    assert refused.returncode == 1
    assert "No space left on device" in refused.stdout + refused.stderr
    assert ready(orin)
    sim(orin, "clear")
    it.fleet("undeploy", "digits", "--node", "orin")
    assert it.fleet(*command).returncode == 0


def ready(node: Node) -> bool:
    return node.request("GET", f"/v2/models/{MODEL}/ready")[0] == 200


def test_a_clock_that_jumps_stops_new_work_only(it: Stage, orin: Node) -> None:
    sim(orin, "inject", "clock-jump", "--value", "40d")  # desired states hold for 30 days
    it.fleet("power-cap", "9W", "--node", "orin")
    wait_until("the refusal", lambda: "expired" in orin.run("status").stdout.lower())
    assert ready(orin)
    sim(orin, "clear")
    it.fleet("power-cap", "none", "--node", "orin")
    wait_until("the acceptance", lambda: "expired" not in orin.run("status").stdout.lower())


def test_a_sensor_that_fails_is_said_and_harms_nobody(it: Stage, orin: Node) -> None:
    sim(orin, "inject", "sensor-missing", "VDD_IN")
    wait_until("no power", lambda: (orin.status() or {"power_w": 0})["power_w"] is None)
    sim(orin, "clear")
    sim(orin, "inject", "sensor-nonsense", "VDD_IN")
    for _ in range(4):
        watts = (orin.status() or {"power_w": None})["power_w"]
        assert watts is None or 3 < watts < 20
    sim(orin, "clear")
    wait_until("power", lambda: (orin.status() or {"power_w": None})["power_w"] is not None)
    assert ready(orin)


def test_an_unknown_board_lists_those_there_are(it: Stage) -> None:
    node = it.node("nowhere", board="sim:zedboard", mqtt=False)
    command = [str(OVERLAID), "run", "--config", str(node.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "there is no simulated board 'zedboard'; there are jetson-orin-nano, kv260, pynq-z2" in done.stderr
