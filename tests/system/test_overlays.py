"""Overlays as packages on a simulated Zynq: delivered, required by programs, rolled back; a core that hangs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.system.digits import ROOT, infer_body
from tests.system.stage import Node, Stage, stage, wait_until
from tests.system.steady import Steady

MODEL = "camera-digits"
BUDGET = ("--latency-p99", "10ms", "--rate", "10/s")  # the Zynq's core takes 40 ms
OVERLAYS = ROOT / "bitstreams"


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("overlays")) as it:
        it.serve()
        it.node("zynq", board="sim:pynq-z2").launch()
        it.nodes[0].wait()
        yield it


@pytest.fixture(scope="module")
def zynq(it: Stage) -> Node:
    return it.nodes[0]


@pytest.fixture(scope="module")
def newer(it: Stage) -> Path:
    """The overlay's next version: the same core under another number."""
    folder = it.folder / "npu-2"
    shutil.copytree(OVERLAYS / "npu", folder, ignore=shutil.ignore_patterns("__pycache__", "tb", "vivado"))
    text = (folder / "overlay.toml").read_text()
    (folder / "overlay.toml").write_text(text.replace("\nversion = 1\n", "\nversion = 2\n"))
    return folder


def deploy(it: Stage, what: str, *options: str) -> str:
    done = it.fleet("deploy", what, "--node", "zynq", *options, "--wait", check=False)
    return done.stdout + done.stderr


def device(node: Node, name: str = MODEL) -> str | None:
    found = node.model(name)
    return found["candidate"]["device"] if found and found["candidate"] else None


def test_a_program_for_an_overlay_that_is_not_there_says_which(it: Stage, newer: Path) -> None:
    it.publish(ROOT / "models" / MODEL, "--overlay", str(newer))
    said = " ".join(deploy(it, f"{MODEL}@1.0.0", *BUDGET).split())
    assert (
        "needs overlay npu version 2 (16 x 16 MAC)" in said
        and "deploy a package of that overlay first" in said
    )


def test_a_model_needs_a_budget(it: Stage) -> None:
    said = deploy(it, f"{MODEL}@1.0.0", "--rate", "10/s")
    assert "UsageError: a model needs --latency-p99, e.g. --latency-p99 20ms --rate 10/s" in said


def test_the_overlay_comes_as_a_package_and_the_program_follows(it: Stage, zynq: Node, newer: Path) -> None:
    it.publish(newer)
    deploy(it, "npu@2")
    overlay = zynq.model("npu")
    assert overlay is not None and overlay["state"] == "SUCCEEDED", overlay
    assert overlay["pid"] is None and "self-test agrees on fpga" in overlay["why"]
    wait_until(f"{MODEL} on the FPGA", lambda: device(zynq) == "fpga", 60)
    shown = json.loads(zynq.run("sim", "show", "--json").stdout)
    assert shown["devices"][1]["overlay"] == "npu"


def test_it_survives_a_restart(zynq: Node) -> None:
    zynq.kill()
    zynq.start()
    wait_until("the program", lambda: (zynq.model(MODEL) or {}).get("ready") is True, 60)
    assert device(zynq) == "fpga" and (zynq.model("npu") or {})["state"] == "SUCCEEDED"


def test_a_hung_core_is_bridged_by_the_cpu(it: Stage, zynq: Node) -> None:
    with np.load(ROOT / "models" / MODEL / "test.npz") as test:
        image = (test["images"][0] / np.float32(255)).astype(np.float32).reshape(1, 64, 64)
    with Steady(zynq.port, MODEL, infer_body(image)) as client:
        wait_until("answers", lambda: client.statuses[200] > 5)
        zynq.run("sim", "inject", "core-hang", "fpga", "--value", "0.2s")
        wait_until("the CPU", lambda: device(zynq) == "cpu", 60)
        good = client.statuses[200]
        wait_until("answers of the CPU", lambda: client.statuses[200] > good + 5)
        assert "OverlayHung" in zynq.run("telemetry", "--json").stdout
        zynq.run("sim", "clear")
        wait_until("the FPGA again", lambda: device(zynq) == "fpga", 60)
    assert set(client.statuses) <= {200, 503} and client.broken == 0


def test_a_program_for_another_overlay_does_not_take_the_fpga_from_who_runs(it: Stage, zynq: Node) -> None:
    it.publish(ROOT / "models" / "digits", "--overlay", "npu-small")
    said = deploy(it, "digits@1.0.0", *BUDGET)
    assert "REJECTED" in said and f"fpga holds npu for {MODEL}" in " ".join(said.split())
    deploy(it, "digits@1.0.0", "--latency-p99", "200ms", "--rate", "10/s")
    explained = json.loads(zynq.run("explain", "digits", "--json").stdout)
    assert explained["candidate"]["device"] == "cpu"
    [kept] = [
        v["reason"]
        for v in explained["verdicts"]
        if v["candidate"]["variant"] == "npu-small" and v["candidate"]["device"] == "fpga"
    ]
    assert f"fpga holds npu for {MODEL}" in kept
    ask = infer_body(np.zeros((1, 8, 8), np.float32))
    assert zynq.request("POST", "/v2/models/digits/infer", ask)[0] == 200
    assert device(zynq) == "fpga"


def test_a_worse_overlay_is_refused_and_the_good_one_stays(it: Stage, zynq: Node, newer: Path) -> None:
    folder = it.folder / "npu-3"
    shutil.copytree(newer, folder)
    text = (folder / "overlay.toml").read_text()
    (folder / "overlay.toml").write_text(text.replace("\nversion = 2\n", "\nversion = 3\n"))
    it.publish(folder)
    zynq.run("sim", "inject", "overlay-load-failure", "fpga")
    said = deploy(it, "npu@3")
    zynq.run("sim", "clear")
    assert "OverlayLoadError" in said
    overlay = zynq.model("npu")
    assert overlay is not None and overlay["running_version"] == "2"
