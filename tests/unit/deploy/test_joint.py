"""Several models share a node: who comes, who moves for whom, who is shed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.deploy import adaptation, lost
from agent.errors import ModelLoadError
from agent.types import (
    BackendInfo,
    BoardInfo,
    Budget,
    DesiredModel,
    DesiredState,
    DeviceInfo,
    State,
)
from tests.unit.deploy.figures import REST_W, known, short_bars
from tests.unit.deploy.rig import Package, Rig, Source, StandInPool, make_package, play

ONNX = (BackendInfo("onnxruntime", "1", ("onnx",)),)
BOARD = BoardInfo(
    "sim",
    True,
    (DeviceInfo("cpu", "cpu", "slow", ONNX, parallel=4), DeviceInfo("gpu", "gpu", "fast", ONNX)),
)
FIGURES = {"cpu": (8.0, 0.05, 0.0), "gpu": (1.0, 0.01, 2.0), "fpga": (2.0, 0.005, 0.5)}
QUICK, EASY = Budget(1.5, 10.0), Budget(20.0, 10.0)  # only the GPU is quick
MANY = ("a", "b", "c")
PACKAGES = {name: make_package("1.0.0", model=name, devices=("cpu", "gpu")) for name in MANY}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates have known figures; looks and probes are frequent."""
    known(monkeypatch, FIGURES)
    monkeypatch.setattr(lost, "PROBE_S", 0.03)
    monkeypatch.setattr(adaptation, "LOOK_S", 0.02)
    short_bars(monkeypatch)


def want(rig: Rig, budgets: dict[str, Budget], cap_w: float | None = None, **more: Package) -> None:
    rig.revision += 1
    models = tuple(
        DesiredModel(name, "1.0.0", {**PACKAGES, **more}[name].digest, budget)
        for name, budget in sorted(budgets.items())
    )
    rig.journal.accept_desired("lab/n1", DesiredState(rig.revision, 1.0, 1e10, models, cap_w))
    rig.manager.reconcile()


def devices(rig: Rig) -> dict[str, str]:
    """Where models are served."""
    return {name: worker.spec.candidate.device for name, worker in sorted(rig.pool.routes.items())}


def why(rig: Rig, model: str) -> tuple[State, str]:
    found = (status for status in rig.manager.statuses() if status.name == model)
    status = next(found, None)
    return (status.state, status.why) if status else (State.QUEUED, "")


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")


def run(tmp_path: Path, scenario: Any, *packages: Package, pool: StandInPool | None = None) -> None:
    play(tmp_path, scenario, Source([*PACKAGES.values(), *packages]), pool, board=BOARD)


def test_a_newcomer_of_higher_priority_pushes_who_is_in_its_way(tmp_path: Path) -> None:
    """The GPU's holding power fits under the cap once; its 70 % do not suffice for both."""
    busy = Budget(1.5, 1000.0)  # half of the GPU

    async def scenario(rig: Rig) -> None:
        want(rig, {"a": busy})
        await rig.settled()
        assert devices(rig) == {"a": "gpu"}
        before = rig.pool.routes["a"]
        want(rig, {"a": busy, "b": replace(busy, priority=1)})
        await rig.settled()
        assert devices(rig) == {"a": "cpu", "b": "gpu"} and before not in rig.pool.alive
        state, reason = why(rig, "a")
        assert state is State.SUCCEEDED and "missed" in reason and "b" in reason

    run(tmp_path, scenario)


def test_a_newcomer_of_the_same_priority_that_nothing_is_left_for_is_rejected(tmp_path: Path) -> None:
    busy = Budget(1.5, 1000.0)

    async def scenario(rig: Rig) -> None:
        want(rig, {"a": busy})
        await rig.settled()
        serving = rig.pool.routes["a"]
        want(rig, {"a": busy, "b": busy})
        await rig.settled()
        state, reason = why(rig, "b")
        assert state is State.REJECTED and reason.startswith("NoFeasibleCandidate: ")
        # Who of the two would be late is a matter of energy; the newcomer gains nothing by it.
        assert "would take from a" in reason or "utilisation of gpu 100.0% > 70% with a" in reason
        assert rig.pool.alive == [serving]

    run(tmp_path, scenario)


def test_a_newcomer_of_the_same_priority_does_not_make_who_runs_late(tmp_path: Path) -> None:
    only_gpu = make_package("1.0.0", model="d", devices=("gpu",))
    busy = Budget(1.5, 1000.0)

    async def scenario(rig: Rig) -> None:
        want(rig, {"a": busy})
        await rig.settled()
        serving = rig.pool.routes["a"]
        want(rig, {"a": busy, "d": busy}, d=only_gpu)
        await rig.settled()
        state, reason = why(rig, "d")
        assert state is State.REJECTED and "v on gpu (onnxruntime) would take from a" in reason
        assert rig.pool.alive == [serving]

    run(tmp_path, scenario, only_gpu)


def test_a_cap_that_falls_moves_several_models_one_after_another(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        budgets = dict.fromkeys(MANY, QUICK)
        want(rig, budgets)
        await rig.settled()
        assert devices(rig) == dict.fromkeys(MANY, "gpu"), [why(rig, name) for name in MANY]
        at_once, most = 0, 0
        start = rig.pool.start

        async def counted(spec: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.02)
            at_once -= 1
            return await start(spec)

        rig.pool.start = counted  # type: ignore[method-assign]
        want(rig, budgets, cap_w=REST_W + 1.8)  # the GPU is held for 2 W; the CPU draws 0.5 W a model
        await rig.settled()
        assert devices(rig) == dict.fromkeys(MANY, "cpu") and most == 1
        assert all("cap 5.8 W" in why(rig, name)[1] for name in MANY)
        assert len(rig.pool.alive) == 3

    run(tmp_path, scenario)


def test_a_cap_below_the_rest_sheds_nobody_and_everybody_draws_least(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        budgets = dict.fromkeys(MANY, QUICK)
        want(rig, budgets)
        await rig.settled()
        want(rig, budgets, cap_w=1.0)
        await rig.settled()
        assert devices(rig) == dict.fromkeys(MANY, "cpu") and not rig.pool.held
        reasons = [why(rig, name)[1] for name in MANY]
        assert all("below its rest of 4 W" in reason for reason in reasons), reasons
        want(rig, {**budgets, "d": QUICK}, cap_w=1.0, d=LAST)
        await rig.settled()
        assert why(rig, "d")[0] is State.REJECTED

    run(tmp_path, scenario, LAST)


LAST = make_package("1.0.0", model="d", devices=("cpu", "gpu"))


def test_who_is_shed_says_why_and_comes_back_by_itself(tmp_path: Path) -> None:
    budgets = {"a": replace(QUICK, priority=2), "b": QUICK}

    async def scenario(rig: Rig) -> None:
        want(rig, budgets)
        await rig.settled()
        want(rig, budgets, cap_w=REST_W + 0.8)  # 0.5 W is one model on the CPU
        await rig.settled()
        assert devices(rig) == {"a": "cpu"} and list(rig.pool.held) == ["b"]
        state, reason = why(rig, "b")
        assert state is State.SUCCEEDED and reason == rig.pool.held["b"] and "cap 4.8 W" in reason
        kept = rig.journal.placement("b", PACKAGES["b"].digest)
        assert kept is not None and kept.placement.shed
        want(rig, budgets)
        await rig.settled()
        assert devices(rig) == {"a": "gpu", "b": "gpu"} and not rig.pool.held

    async def again(rig: Rig) -> None:
        rig.revision = 3
        want(rig, budgets, cap_w=REST_W + 0.8)
        await rig.settled()
        assert list(rig.pool.held) == ["b"]

    async def restarted(rig: Rig) -> None:
        await until(rig.manager.restored.is_set)
        await until(lambda: devices(rig) == {"a": "cpu"})
        assert list(rig.pool.held) == ["b"] and rig.pool.started == 1  # not even for a moment
        rig.revision = 4
        want(rig, budgets)
        await rig.settled()
        assert devices(rig) == {"a": "gpu", "b": "gpu"}

    run(tmp_path, scenario)
    run(tmp_path, again)
    run(tmp_path, restarted)


def test_a_fresh_worker_that_is_much_slower_than_measured_does_not_take_over(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        budgets = {"a": QUICK}
        want(rig, budgets, cap_w=7.0)
        await rig.settled()
        want(rig, budgets, cap_w=5.0)
        await rig.settled()
        serving = rig.pool.routes["a"]
        assert devices(rig) == {"a": "cpu"}
        rig.pool.run_s["gpu"] = 0.010  # somebody else is on it now
        want(rig, budgets)
        await rig.settled()
        assert rig.pool.routes["a"] is serving and rig.pool.alive == [serving]
        assert "could not take over: TooSlow: its runs take 20 x the profiled time" in why(rig, "a")[1]
        rig.pool.run_s.clear()

        def back() -> bool:
            rig.serves(1, 0.008, "a")
            return devices(rig) == {"a": "gpu"}

        await until(back)

    run(tmp_path, scenario)


def test_a_deployment_that_fails_lets_those_it_pushed_back(tmp_path: Path) -> None:
    busy = Budget(1.5, 1000.0)

    async def scenario(rig: Rig) -> None:
        want(rig, {"a": busy})
        await rig.settled()
        rig.pool.dies_in_soak.add("2.0.0")
        bad = make_package("2.0.0", model="b", devices=("cpu", "gpu"))
        rig.source.packages.append(bad)
        rig.revision += 1
        models = (
            DesiredModel("a", "1.0.0", PACKAGES["a"].digest, busy),
            DesiredModel("b", "2.0.0", bad.digest, replace(busy, priority=1)),
        )
        rig.journal.accept_desired("lab/n1", DesiredState(rig.revision, 1.0, 1e10, models))
        rig.manager.reconcile()
        await until(lambda: devices(rig).get("a") == "cpu")
        await rig.settled()
        assert why(rig, "b")[0] is State.FAILED
        await until(lambda: devices(rig) == {"a": "gpu"})

    run(tmp_path, scenario)


def test_a_newcomer_that_nobody_makes_room_for_fails_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "ROOM_S", 0.3)
    busy = Budget(1.5, 1000.0)

    async def scenario(rig: Rig) -> None:
        want(rig, {"a": busy})
        await rig.settled()
        serving = rig.pool.routes["a"]
        start = rig.pool.start

        async def cannot(spec: Any) -> Any:
            if (spec.model, spec.candidate.device) == ("a", "cpu"):
                raise ModelLoadError("no memory")
            return await start(spec)

        rig.pool.start = cannot  # type: ignore[method-assign]
        want(rig, {"a": busy, "b": replace(busy, priority=1)})
        await rig.settled()
        state, reason = why(rig, "b")
        assert state is State.FAILED and "the other models did not make room: a: " in reason
        assert rig.pool.alive == [serving]

    run(tmp_path, scenario)
