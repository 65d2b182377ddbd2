"""kill -9 of a worker, of the daemon, and power cuts, at random instants of serving and of deploying: golden outputs
afterwards, and a deployment that has an end."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.nspawn.models import digits_as
from tests.nspawn.node import NODE, Service, watching
from tests.nspawn.table import Table
from tests.system.stage import Stage, StageError, wait_until

FINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED", "SUPERSEDED"}
USUAL_DEPLOYMENT_S = 3.0
END_TIMEOUT_S = 180.0
TARGETS = ("worker", "daemon", "power")
numbers = itertools.count(1)


def strike(box: Service, target: str, table: Table) -> None:
    """Kill it, and wait for golden outputs."""
    if target == "power":
        box.machine.cut_power()
        box.machine.boot()
        box.answers()
        table.add("power cut: power on → golden outputs", time.monotonic() - box.machine.switched_on)
        return
    try:
        pid = box.pid() if target == "daemon" else box.worker("digits")
        os.kill(pid, signal.SIGKILL)
    except (StageError, ProcessLookupError):  # it is just being replaced
        return
    began = time.monotonic()
    box.answers()
    table.add(f"{target} killed at random → golden outputs", time.monotonic() - began)


def settled(box: Service, old: str, new: str) -> None:
    """Until the deployment of ``new`` has ended; what runs is one of the two and right."""

    def ended() -> bool:
        model = box.model("digits")
        return model is not None and model["version"] == new and model["state"] in FINAL and model["ready"]

    wait_until(f"the end of the deployment of {new}", ended, END_TIMEOUT_S)
    model = box.model("digits")
    assert model is not None and model["running_version"] in {old, new}, model
    assert not box.digits()


def serving(box: Service, chance: random.Random, target: str, table: Table) -> None:
    with watching(box) as watch:
        time.sleep(chance.uniform(0, 1))
        strike(box, target, table)
    assert not watch.wrong


def deploying(
    box: Service, fleet: Stage, folder: Path, chance: random.Random, target: str, table: Table
) -> None:
    model = box.model("digits")
    assert model is not None
    old, new = model["running_version"], f"1.1.{next(numbers)}"
    fleet.publish(digits_as(new, folder / new), "--no-check")
    with watching(box) as watch:
        fleet.fleet("deploy", f"digits@{new}", "--node", NODE, "--latency-p99", "200ms", "--rate", "5/s")
        time.sleep(chance.uniform(0, USUAL_DEPLOYMENT_S))
        strike(box, target, table)
        settled(box, old, new)
    assert not watch.wrong


def test_a_strike_of_each_kind(box: Service, fleet: Stage, table: Table, tmp_path: Path) -> None:
    chance = random.Random(9)
    for target in TARGETS:
        serving(box, chance, target, table)
        deploying(box, fleet, tmp_path, chance, target, table)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_strikes(box: Service, fleet: Stage, table: Table, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(12):
        target = TARGETS[number % 3]
        serving(box, chance, target, table)
        deploying(box, fleet, tmp_path, chance, target, table)
