"""Three simulated boards beside each other: one model, different budgets, less power, a device that is lost."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import numpy as np

from agent.cli.output import print_table
from tests.demo.show import say, show
from tests.system.digits import infer_body
from tests.system.stage import ROOT, Node, Stage, wait_until
from tests.system.steady import Steady

MODEL = "camera-digits"
BOARDS = {"zynq": "sim:pynq-z2", "orin": "sim:jetson-orin-nano", "pi": "sim:rpi5"}
LOOSE = ("--latency-p99", "100ms", "--rate", "2/s")
TIGHT = {"zynq": "10ms", "orin": "2ms", "pi": "1ms"}


def play(it: Stage) -> None:
    """SystemExit when something did not go as it should."""
    say("three simulated boards beside each other")
    nodes = {name: it.node(name, board=board) for name, board in BOARDS.items()}
    for node in nodes.values():
        node.launch()
    for node in nodes.values():
        node.wait()
    show("devices", "--config", str(nodes["zynq"].config))
    it.publish(ROOT / "models" / MODEL, "--overlay", "npu")
    budgets(it, nodes)
    less_power(it, nodes["orin"])
    lose_a_device(nodes["zynq"])


def budgets(it: Stage, nodes: dict[str, Node]) -> None:
    targets = [part for name in nodes for part in ("--node", name)]
    say("one budget for all: p99 100 ms at 2 requests a second")
    show("fleet", "deploy", f"{MODEL}@1.0.0", *targets, *LOOSE, "--wait", "--home", str(it.home))
    table(nodes)
    say("tighter budgets: 10 ms on the Zynq, 2 ms on the Orin, 1 ms on the Pi, which has nothing that fast")
    seen = {name: revision_seen(node) for name, node in nodes.items()}
    for name, latency in TIGHT.items():
        budget = ("--latency-p99", latency, "--rate", "10/s")
        show("fleet", "deploy", f"{MODEL}@1.0.0", "--node", name, *budget, "--home", str(it.home))
    for name, node in nodes.items():
        wait_until(f"{name}'s placement", partial(settled, node, seen[name]), 60)
    table(nodes)
    expect(nodes["zynq"], "fpga")
    expect(nodes["orin"], "gpu")
    expect(nodes["pi"], "cpu")


def less_power(it: Stage, node: Node) -> None:
    say("cap the Orin at 4.5 W while a client keeps asking: the GPU's idling alone is too much")
    with asking(node) as client:
        show("fleet", "power-cap", "4.5W", "--node", node.name, "--home", str(it.home))
        wait_until("the CPU", lambda: runs_on(node) == "cpu", 20)
        time.sleep(1.0)
    show("explain", MODEL, "--config", str(node.config))
    report(client)
    if set(client.statuses) != {200} or client.broken:
        raise SystemExit("demo: a request failed while the placement changed")


def lose_a_device(node: Node) -> None:
    say("the Zynq's FPGA fails while a client keeps asking: the CPU takes over")
    with asking(node) as client:
        show("sim", "inject", "device-lost", "fpga", "--config", str(node.config))
        wait_until("the CPU", lambda: runs_on(node) == "cpu", 20)
        time.sleep(1.0)
    show("status", "--config", str(node.config))
    report(client)
    if set(client.statuses) - {200, 503} or client.broken:
        raise SystemExit("demo: a request got another answer than 200 or 503")


def asking(node: Node) -> Steady:
    with np.load(ROOT / "models" / MODEL / "test.npz") as test:
        image = (test["images"][0] / np.float32(255)).astype(np.float32)
    return Steady(node.port, MODEL, infer_body(image.reshape(1, 64, 64)))


def report(client: Steady) -> None:
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(client.statuses.items()))
    print(
        f"the client was answered {answers}; {client.broken} connections broke; "
        f"at most {client.gap_s * 1e3:.0f} ms passed between two good answers"
    )


def table(nodes: dict[str, Node]) -> None:
    """Where the model runs on each node, and why."""
    rows = []
    for node in nodes.values():
        placement = json.loads(node.run("explain", MODEL, "--json").stdout)
        chosen = next(verdict for verdict in placement["verdicts"] if verdict["chosen"])
        measured, candidate = chosen["measurement"], placement["candidate"]
        model: dict[str, Any] = node.model(MODEL) or {}
        rows.append(
            [
                node.name,
                BOARDS[node.name],
                f"{candidate['variant']} on {candidate['device']}",
                f"{measured['p99_ms']:.2f}",
                f"{(measured['joules'] or 0) * 1e3:.2f}",
                model["state"],
                model["why"] if model["state"] != "SUCCEEDED" else placement["reason"].partition(";")[0],
            ]
        )
    print_table(("NODE", "BOARD", "RUNS", "P99 MS", "MJ/RUN", "STATE", "WHY"), rows)


def revision_seen(node: Node) -> int:
    status = node.status()
    return int(status["revision_seen"]) if status else 0


def settled(node: Node, before: int) -> bool:
    """Whether everything that a newer revision asks for has ended."""
    status = node.status()
    return status is not None and before < status["revision_seen"] == status["revision_applied"]


def runs_on(node: Node) -> str | None:
    model = node.model(MODEL)
    return model["candidate"]["device"] if model and model["candidate"] else None


def expect(node: Node, device: str) -> None:
    if runs_on(node) != device:
        raise SystemExit(f"demo: {MODEL} runs on {runs_on(node)} of {node.name}, expected {device}")
