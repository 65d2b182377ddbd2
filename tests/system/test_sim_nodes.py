"""A fleet of simulated nodes, as one process, below a real broker and a real ``overlaid fleet serve``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.brokers import start_mosquitto
from tests.system.digits import DIGITS, break_digits
from tests.system.many import QUICK, crowd
from tests.system.stage import Stage, children_of, run_overlaid, stage, wait_until


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, start_mosquitto) as it:
        it.serve()
        yield it


def test_fifty_nodes_deploy_a_model_and_its_blocks_are_sent_about_once(it: Stage) -> None:
    it.publish(DIGITS, "--overlay", "npu")
    with crowd(it, 50, "--wait", "digits", "--for", "90s", *QUICK) as nodes:
        nodes.wait_online()
        outcomes = nodes.deploy("digits@1.0.0", wait_s=80)
        code, report = nodes.report()
        assert not list(nodes.folder.glob("sim-*"))
    assert Counter(outcome["state"] for outcome in outcomes) == {"SUCCEEDED": 50}, outcomes
    assert (code, report["states"], report["all_succeeded"]) == (0, {"SUCCEEDED": 50}, True)
    assert {board["board"]: board["nodes"] for board in report["boards"]} == dict.fromkeys(
        ("jetson-orin-nano", "kv260", "pynq-z2", "rpi5", "x86-dgpu"), 10
    )
    assert next(board for board in report["boards"] if board["board"] == "pynq-z2")["chosen"] == {
        "npu on fpga": 10
    }
    # Every block of every variant reaches every node that can use it, and is sent about once for all of them.
    assert report["blocks_sent_each"] <= 1.3, report["wire"]
    assert report["received_bytes"] > 25 * report["wire"]["frame_bytes"]
    views = nodes.views()
    models = [node["reported"]["models"][0] for node in views]
    assert len(views) == 50 and {model["state"] for model in models} == {"SUCCEEDED"}
    assert not any(node["online"] for node in views)
    chosen = Counter(f"{model['variant']} on {model['device']}" for model in models)
    assert chosen == sum((Counter(board["chosen"]) for board in report["boards"]), Counter())


def test_a_broken_model_fails_on_every_node_with_the_same_reason(it: Stage) -> None:
    it.publish(break_digits(it.folder / "broken", "1.0.1"), "--no-check", "--overlay", "npu")
    with crowd(it, 20, "--wait", "digits", "--for", "90s", *QUICK) as nodes:
        nodes.wait_online()
        nodes.deploy("digits@1.0.1")
        code, report = nodes.report()
        assert not list(nodes.folder.glob("sim-*"))
    assert (code, report["states"], report["all_succeeded"]) == (1, {"FAILED": 20}, False)
    (failure,) = report["failures"]
    assert failure["count"] == 20 and failure["why"].startswith("GoldenMismatch: digits@1.0.1")
    whys = [node["reported"]["models"][0]["why"] for node in nodes.views()]
    assert len(whys) == 20 and all(why.startswith("GoldenMismatch") for why in whys)


def test_nodes_serve_their_own_commands_and_end_at_ctrl_c(it: Stage) -> None:
    with crowd(it, 3, "--board", "kv260") as nodes:
        nodes.wait_online()
        configs = sorted(nodes.folder.glob("sim-*/sim-*/agent.toml"))
        status = run_overlaid("devices", "--config", str(configs[1]))
        assert "cpu" in status.stdout and "fpga" in status.stdout
        assert children_of(nodes.process.pid) == []
        nodes.interrupt()
        code, report = nodes.report()
        assert not list(nodes.folder.glob("sim-*"))
    assert (code, report["interrupted"], report["states"]) == (0, True, {"": 3})
    wait_until("the farewells", lambda: not nodes.online(), 10.0)


def test_the_faults_of_a_scenario_hit_every_node_with_its_board(it: Stage) -> None:
    it.publish(DIGITS, "--overlay", "npu")
    scenario = it.folder / "lost.toml"
    scenario.write_text(
        'board = "pynq-z2"\nduration_s = 100.0\n'
        '[[faults]]\nkind = "device-lost"\ntarget = "fpga"\n'
        f'[[models]]\nfolder = "{DIGITS}"\nbudget = {{ latency_p99_ms = 50.0, rate_hz = 10.0 }}\n'
    )
    with crowd(
        it, 4, "--scenario", str(scenario), "--board", "pynq-z2", "--board", "rpi5",
        "--wait", "digits", "--for", "60s", *QUICK,
    ) as nodes:  # fmt: skip
        nodes.wait_online()
        nodes.deploy("digits@1.0.0")
        code, report = nodes.report()
    lost, fine = report["boards"]
    assert (lost["board"], fine["states"]) == ("pynq-z2", {"SUCCEEDED": 2})
    # Its CPU is too slow for the budget: without the FPGA nothing can run it, until that is back.
    assert (code, lost["states"]) == (1, {"FAILED": 2})
    assert report["failures"][0]["why"].startswith("DeviceLost: fpga of pynq-z2")
