"""One plan for all models of a node, kept up with what happens to it: real daemons on simulated boards, over MQTT.

Each time two clients never stop asking, one on a connection that it keeps, one on a new one for every request. What is
decided, and why, must be the same in ``reported`` (read from the broker), in telemetry and in ``overlaid explain``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.control import client
from agent.errors import UsageError
from tests.system.digits import ROOT, infer_body
from tests.system.reports import Reports
from tests.system.stage import Node, Stage, stage, wait_until
from tests.system.steady import Steady

CAMERA, DIGITS = "camera-digits", "digits"
NEEDS_FPGA = ("--latency-p99", "10ms", "--rate", "10/s")  # the Zynq's core takes 40 ms for it, its FPGA 3
NEEDS_GPU = ("--latency-p99", "6ms", "--rate", "10/s")  # the Orin's core takes 8 ms for FP32, its GPU 1
SLOW = "gpu (takes )?[0-9.]+ x"
EVERY_S = 0.2  # two clients together ask at the budgets' rate


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("placement")) as it:
        it.serve()
        it.publish(ROOT / "models" / CAMERA, "--overlay", "npu")
        it.publish(ROOT / "models" / DIGITS, "--overlay", "npu-small")
        it.publish(only_fp32(it.folder / "fp32"))
        nodes = [it.node("zynq", board="sim:pynq-z2"), it.node("orin", board="sim:jetson-orin-nano")]
        for node in nodes:
            node.config.write_text(node.config.read_text().replace("profile_s = 0.5", "profile_s = 0.3"))
            node.launch()
        for node in nodes:
            node.wait()
        with ThreadPoolExecutor(2) as pool:
            jobs = (nodes[0], NEEDS_FPGA, CAMERA), (nodes[1], NEEDS_GPU, f"{CAMERA}@2.0.0")
            list(pool.map(lambda job: deploy(it, *job), jobs))
        yield it


def only_fp32(folder: Path) -> Path:
    """The camera's model without its quick variants, as version 2.0.0."""
    shutil.copytree(ROOT / "models" / CAMERA, folder)
    head, fp32, *_ = (folder / "model.toml").read_text().split("[[variants]]")
    text = head.replace('version = "1.0.0"', 'version = "2.0.0"') + "[[variants]]" + fp32
    (folder / "model.toml").write_text(text)
    return folder


@pytest.fixture
def zynq(it: Stage) -> Iterator[Node]:
    yield it.nodes[0]
    it.nodes[0].run("sim", "clear")


@pytest.fixture
def orin(it: Stage) -> Iterator[Node]:
    yield it.nodes[1]
    it.nodes[1].run("sim", "clear")


def deploy(it: Stage, node: Node, budget: tuple[str, ...], model: str = CAMERA, *, check: bool = True) -> str:
    """What the command says: deployed, or why not."""
    done = it.fleet(
        "deploy",
        model if "@" in model else f"{model}@1.0.0",
        "--node",
        node.name,
        *budget,
        "--wait",
        check=check,
    )
    return " ".join((done.stdout + done.stderr).split())


@contextmanager
def asking(node: Node) -> Iterator[tuple[Steady, Steady]]:
    """Both clients; at the end all that they asked was answered."""
    with np.load(ROOT / "models" / CAMERA / "test.npz") as test:
        image = (test["images"][0] / np.float32(255)).astype(np.float32).reshape(1, 64, 64)
    body = infer_body(image)
    with (
        Steady(node.port, CAMERA, body, EVERY_S) as keeping,
        Steady(node.port, CAMERA, body, EVERY_S, fresh=True) as fresh,
    ):
        more((keeping, fresh))
        yield keeping, fresh
        more((keeping, fresh))
    for each in (keeping, fresh):
        assert set(each.statuses) == {200} and each.broken == 0, (each.statuses, each.broken)


def more(clients: tuple[Steady, Steady], count: int = 3) -> None:
    """Both get so many more answers."""
    seen = [each.statuses[200] for each in clients]
    wait_until(
        "answers", lambda: all(c.statuses[200] >= n + count for c, n in zip(clients, seen, strict=True))
    )


def explained(node: Node, model: str = CAMERA) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.run("explain", model, "--json").stdout)
    return found


def events(node: Node, kind: str, model: str | None = CAMERA) -> list[str]:
    found = json.loads(node.run("telemetry", "--json").stdout)["events"]
    return [event["text"] for event in found if event["kind"] == kind and event["model"] in (model, None)]


def ends_on(node: Node, reports: Reports, device: str, *words: str, model: str = CAMERA) -> None:
    """The model comes to the device for a reason with these words (patterns), and all who are asked say so."""
    reports.wait(model, device, *words)
    found = explained(node, model)
    assert found["candidate"]["device"] == device, found["reason"]
    assert all(re.search(word, found["reason"]) for word in words), found["reason"]
    [chosen] = [verdict for verdict in found["verdicts"] if verdict["chosen"]]
    assert chosen["candidate"] == found["candidate"]

    def recorded() -> bool:
        return any(
            f"on {device}" in text.partition(" -> ")[2] and all(re.search(word, text) for word in words)
            for text in events(node, "replaced", model)
        )

    wait_until(f"the event of {model}'s move to {device}", recorded)


def planned_w(node: Node) -> float:
    """The bound of the plan's watts, once there is one: while the watts at rest are not known, there is none."""
    wait_until("the plan's watts", lambda: explained(node)["plan"]["watts_bound"] is not None)
    return float(explained(node)["plan"]["watts_bound"] or 0.0)


def test_a_lower_cap_moves_a_model_and_a_higher_one_takes_it_back(it: Stage, orin: Node) -> None:
    with Reports(it.broker, "orin") as reports, asking(orin) as clients:
        reports.wait(CAMERA, "gpu")
        it.fleet("power-cap", "4.5W", "--node", "orin")
        ends_on(orin, reports, "cpu", "cap 4.5 W", "until the cap rises")
        assert planned_w(orin) <= 4.5
        more(clients)
        assert any("cap" in each["text"] for each in explained(orin)["outlook"])
        it.fleet("power-cap", "none", "--node", "orin")
        ends_on(orin, reports, "gpu", "p99")


def test_a_lost_fpga_is_left_and_taken_back(it: Stage, zynq: Node) -> None:
    with Reports(it.broker, "zynq") as reports, asking(zynq) as clients:
        reports.wait(CAMERA, "fpga")
        zynq.run("sim", "inject", "device-lost", "fpga")
        ends_on(zynq, reports, "cpu", "fpga is lost", "p99")
        more(clients)
        [fpga] = [device for device in explained(zynq)["devices"] if device["id"] == "fpga"]
        assert fpga["lost"]
        zynq.run("sim", "clear")
        ends_on(zynq, reports, "fpga", "p99")


def test_another_overlay_is_for_whom_has_priority(it: Stage, zynq: Node) -> None:
    budget = ("--latency-p99", "1ms", "--rate", "10/s")
    refused = deploy(it, zynq, budget, DIGITS, check=False)
    held = "npu-small on fpga was not measured: fpga holds npu for camera-digits, whose priority is no lower"
    assert "REJECTED" in refused and held in refused
    assert explained(zynq)["candidate"]["device"] == "fpga"
    with Reports(it.broker, "zynq") as reports, asking(zynq) as clients:
        deploy(it, zynq, (*budget, "--priority", "3"), DIGITS)
        chosen = explained(zynq, DIGITS)["candidate"]
        assert (chosen["variant"], chosen["device"]) == ("npu-small", "fpga")
        ends_on(zynq, reports, "cpu", "fpga (takes|holds) npu-small")
        assert re.search("fpga holds npu-small .*for digits", explained(zynq)["reason"])
        more(clients)
        it.fleet("undeploy", DIGITS, "--node", "zynq")
        ends_on(zynq, reports, "fpga", "p99")


def test_without_a_sensor_the_last_watts_hold_and_it_is_said(it: Stage, orin: Node) -> None:
    with Reports(it.broker, "orin") as reports, asking(orin) as clients:
        reports.wait(CAMERA, "gpu")
        it.fleet("power-cap", "6W", "--node", "orin")
        reports.wait(CAMERA, "gpu", "cap 6 W")
        for fault in ("sensor-missing", "sensor-nonsense"):
            orin.run("sim", "inject", fault, "VDD_IN")
            reports.wait(CAMERA, "gpu", "no power meter answers")
            found = explained(orin)
            assert "no power meter answers" in found["reason"] and found["plan"]["cap_w"] == 6.0
            assert 4.4 < found["plan"]["watts"] < 5.0  # as if the meter still told
            more(clients)
            orin.run("sim", "clear")
            reports.wait(CAMERA, "gpu", "^((?!no power meter).)*$")
        wait_until("both", lambda: sum("answers again" in text for text in events(orin, "sensor")) == 2)
        assert any("without models the node drew" in text for text in events(orin, "sensor"))
        assert not [text for text in events(orin, "replaced") if "sensor" in text or "meter" in text]
        it.fleet("power-cap", "none", "--node", "orin")


def test_a_throttled_gpu_is_left(it: Stage, orin: Node) -> None:
    with Reports(it.broker, "orin") as reports, asking(orin) as clients:
        reports.wait(CAMERA, "gpu")
        orin.run("sim", "inject", "throttle", "gpu", "--value", "0.05")
        ends_on(orin, reports, "cpu", SLOW)
        more(clients)


def test_a_budget_that_nothing_can_meet_is_rejected_with_the_closest(it: Stage, orin: Node) -> None:
    refused = deploy(it, orin, ("--latency-p99", "0.01ms", "--rate", "1/s"), DIGITS, check=False)
    assert "REJECTED" in refused and "closest" in refused and "p99" in refused and "> 0.01 ms" in refused
    hurried = ("--latency-p99", "50ms", "--rate", "10000/s")
    refused = deploy(it, orin, hurried, DIGITS, check=False)
    assert "REJECTED" in refused and "utilisation" in refused


def test_a_model_that_is_never_asked_runs_where_holding_costs_least(it: Stage, orin: Node) -> None:
    said = deploy(it, orin, ("--latency-p99", "50ms", "--rate", "0/s"), DIGITS)
    assert "SUCCEEDED" in said
    found = explained(orin, DIGITS)
    assert found["candidate"]["device"] == "cpu" and found["budget"]["rate_hz"] == 0
    it.fleet("undeploy", DIGITS, "--node", "orin")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--latency-p99", "-5ms"),
        ("--latency-p99", "5"),
        ("--latency-p99", "999999999s"),
        ("--rate", "-1/s"),
        ("--rate", "1e400/s"),
        ("--rate", "9999999999/s"),
        ("--power", "0.5mW"),
        ("--power", "5kW"),
    ],
)
def test_absurd_units_are_refused_before_anything_is_sent(
    it: Stage, orin: Node, option: str, value: str
) -> None:
    options = {"--latency-p99": "5ms", "--rate": "1/s"} | {option: value}
    told = deploy(it, orin, tuple(f"{key}={text}" for key, text in options.items()), DIGITS, check=False)
    assert option in told and ("e.g." in told or "between" in told)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_p99_ms": -5.0},
        {"rate_hz": float("nan")},
        {"power_w": float("inf")},
        {"priority": 10},
        {"watts": 1.0},
    ],
)
def test_absurd_budgets_on_the_control_socket_are_refused_by_name(orin: Node, wrong: dict[str, Any]) -> None:
    budget = {"latency_p99_ms": 5.0, "rate_hz": 1.0} | wrong
    with pytest.raises(UsageError, match=f"budget: .*{next(iter(wrong))}"):
        client.ask(orin.runtime / "control.sock", "deploy", package="/nowhere", budget=budget)


def test_bench_measures_again_and_draws_the_front(it: Stage, orin: Node) -> None:
    picture = it.folder / "front.png"
    said = orin.run("bench", CAMERA, "--plot", str(picture))
    assert "on the front" in said.stdout and "latency budget 6 ms" in said.stdout
    assert f"{CAMERA}: " in said.stderr  # what is measured, while it is
    assert picture.read_bytes().startswith(b"\x89PNG")
