"""What a node tells of its decisions, and measuring again on demand."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.deploy import adaptation, bench
from agent.errors import UsageError
from agent.types import Budget
from tests.unit.deploy.figures import REST_W, by_the, known
from tests.unit.deploy.rig import Rig
from tests.unit.deploy.test_joint import FIGURES, QUICK, devices, run, want

A, B = "a", "b"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates have known figures."""
    known(monkeypatch, FIGURES)


def test_a_decision_is_explained_among_the_others(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        budgets = {A: replace(QUICK, priority=2), B: QUICK}
        want(rig, budgets, cap_w=REST_W + 3.0)
        await rig.settled()
        told: dict[str, Any] = json.loads(json.dumps(await rig.manager.explain(A)))
        assert told["placement"]["candidate"]["device"] == "gpu" and told["placement"]["reason"]
        assert told["plan"]["cap_w"] == 7.0 and told["plan"]["rest_w"] == REST_W
        assert told["plan"]["watts"] == pytest.approx(REST_W + 2.0 + 0.2)
        assert told["plan"]["watts"] < told["plan"]["watts_bound"] <= 7.0
        assert [(m["model"], m["candidate"]["device"], m["priority"]) for m in told["models"]] == [
            (A, "gpu", 2), (B, "gpu", 0)
        ]  # fmt: skip
        gpu = next(device for device in told["devices"] if device["id"] == "gpu")
        assert gpu["utilisation"] == pytest.approx(2 * 10 * 0.0005) and gpu["limit"] == 0.7
        assert any("cap" in each["text"] for each in told["outlook"])
        with pytest.raises(UsageError, match="overlaid models"):
            await rig.manager.explain("nothing")

    run(tmp_path, scenario)


def test_what_could_not_take_over_is_out_of_the_plan_that_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "LOOK_S", 0.02)

    async def scenario(rig: Rig) -> None:
        want(rig, {A: QUICK})
        await rig.settled()
        want(rig, {A: QUICK}, cap_w=REST_W + 0.8)
        await rig.settled()
        assert devices(rig) == {A: "cpu"}
        rig.pool.wrong_on.add("gpu")
        want(rig, {A: QUICK}, cap_w=None)
        await rig.settled()
        assert devices(rig) == {A: "cpu"}
        await asyncio.sleep(10 * adaptation.LOOK_S)
        told = await rig.manager.explain(A)
        assert "GoldenMismatch" in told["placement"]["reason"]
        ((missed, watts),) = [(m["missed"], told["plan"]["watts"]) for m in told["models"]]
        assert "p99 8 ms > 1.5 ms" in missed and watts == pytest.approx(REST_W + 0.5)

    run(tmp_path, scenario)


def test_what_is_left_alone_for_now_is_where_a_model_goes_when_its_device_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "LOOK_S", 0.02)

    async def scenario(rig: Rig) -> None:
        want(rig, {A: QUICK})
        await rig.settled()
        rig.pool.wrong_on.add("cpu")
        want(rig, {A: QUICK}, cap_w=REST_W + 0.8)
        await rig.settled()
        rig.pool.wrong_on.clear()
        want(rig, {A: QUICK}, cap_w=None)
        await rig.settled()
        await asyncio.sleep(10 * adaptation.LOOK_S)
        told = await rig.manager.explain(A)
        assert told["placement"]["candidate"]["device"] == "gpu"
        assert "v on cpu if gpu is lost" in [each["text"] for each in told["outlook"]]

    run(tmp_path, scenario)


def test_what_is_shed_runs_nowhere(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        budgets = {A: replace(QUICK, priority=2), B: QUICK}
        want(rig, budgets)
        await rig.settled()
        want(rig, budgets, cap_w=REST_W + 0.8)
        await rig.settled()
        assert devices(rig) == {A: "cpu"}
        told = await rig.manager.explain(B)
        assert told["placement"]["candidate"] is None and told["placement"]["shed"]
        assert told["placement"]["reason"] == rig.pool.held[B]

    run(tmp_path, scenario)


def test_a_bench_replaces_what_was_measured_and_moves_nothing_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure_all", by_the({**FIGURES, "cpu": (9.0, 0.04, 0.0)}))

    async def scenario(rig: Rig) -> None:
        want(rig, {A: Budget(20.0, 10.0)})
        await rig.settled()
        assert devices(rig) == {A: "cpu"}
        shares: list[float] = []
        told = await rig.manager.bench(A, shares.append)
        assert shares[-1] == 1.0 and told["candidate"]["device"] == "cpu"
        figures = {v["candidate"]["device"]: v["measurement"]["p99_ms"] for v in told["verdicts"]}
        assert figures == {"cpu": 9.0, "gpu": 1.0}
        assert {device["id"] for device in told["devices"]} == {"cpu", "gpu"} and told["threads"] == 1
        placement = rig.manager.placement(A)
        assert placement is not None and placement.measurement is not None
        assert placement.measurement.p99_ms == 9.0
        kept = rig.journal.placement(A, placement.digest)
        assert kept is not None and kept.placement == placement
        with pytest.raises(UsageError, match="not deployed here"):
            await rig.manager.bench("nothing")

    run(tmp_path, scenario)
