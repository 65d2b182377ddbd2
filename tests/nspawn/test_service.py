"""The service in a machine that boots: a deployment from outside, and what systemd there makes of a hung daemon."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.nspawn.node import UNIT, Service, watching
from tests.nspawn.table import Table
from tests.system.digits import DIGITS, infer_body
from tests.system.stage import wait_until

WATCHDOG_S, RESTART_S = 30.0, 5.0  # of overlaid.service


def test_a_model_that_came_over_mqtt_is_right(box: Service) -> None:
    places = {name: (version, device) for name, version, _, device in box.placements()}
    assert places["digits"] == ("1.0.0", "cpu")
    with np.load(DIGITS / "test.npz") as test:
        images, labels = test["images"][:200], test["labels"][:200]
    status, answer = box.post("digits", infer_body(images))
    assert status == 200
    guesses = np.argmax(np.array(answer["outputs"][0]["data"]).reshape(-1, 10), axis=1)
    assert np.mean(guesses == labels) > 0.95


def test_the_daemon_and_its_workers_have_no_rights(box: Service) -> None:
    for pid in (box.pid(), box.worker("digits")):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        assert "0" not in status["Uid"].split()


def test_a_daemon_that_hangs_is_started_again(box: Service, table: Table) -> None:
    daemon, restarts = box.pid(), box.restarts()
    with watching(box) as watch:
        began = time.monotonic()
        os.kill(daemon, signal.SIGSTOP)
        wait_until("the watchdog", lambda: box.restarts() > restarts, 4 * WATCHDOG_S)
        wait_until("the service", box.active, 60)
        table.add("daemon hangs → active again", box.since() - began, at_most=WATCHDOG_S + RESTART_S + 5)
        box.answers()
        time.sleep(0.2)
    assert "watchdog" in box.machine.journal(UNIT, 200).lower()
    assert box.pid() != daemon
    assert watch.answers and not watch.wrong
    table.add("daemon hangs: longest without an answer", watch.gap_s)


@pytest.mark.parametrize("what", ["worker", "daemon"])
def test_one_that_is_killed_comes_back(box: Service, table: Table, what: str) -> None:
    with watching(box) as watch:
        time.sleep(0.2)
        os.kill(box.pid() if what == "daemon" else box.worker("digits"), signal.SIGKILL)
        time.sleep(0.2)
        box.answers()
        time.sleep(0.2)
    assert not watch.wrong
    table.add(f"{what} killed: longest without an answer", watch.gap_s)
