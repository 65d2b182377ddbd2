"""One FPGA, several overlays: who is on it serves elsewhere while it changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.deploy import adaptation, measuring, placing
from agent.errors import DeviceLost, ModelLoadError
from agent.types import (
    BackendInfo,
    BoardInfo,
    Budget,
    DesiredModel,
    DesiredState,
    DeviceInfo,
    OverlayRef,
    State,
)
from tests.unit.deploy.figures import known
from tests.unit.deploy.rig import Package, Rig, Source, make_package, play

ONE, TWO = OverlayRef("npu", 1, 16), OverlayRef("npu-small", 1, 8)
NPU = (BackendInfo("npu", "1", ("npu",)),)
CPU = DeviceInfo("cpu", "cpu", "a CPU", (BackendInfo("program", "1", ("npu",)),), parallel=4)
BOARD = BoardInfo("sim", True, (CPU, DeviceInfo("fpga", "fpga", "logic", NPU, overlays=(ONE, TWO))))
FIGURES = {
    "cpu": (8.0, 0.2, 0.0),
    "fpga": (2.0, 0.005, 0.5),
    "w fpga": (2.0, 0.010, 0.5),
    "gpu": (8.0, 0.2, 0.0),
}
QUICK, EASY = Budget(5.0, 10.0), Budget(20.0, 10.0)
VERSIONS = (("1.0.0", ONE), ("1.1.0", TWO))
BUDGETS = {"one": EASY, "two": replace(QUICK, priority=1)}


def program(
    name: str, version: str, overlay: OverlayRef, devices: tuple[str, ...] = ("cpu", "fpga")
) -> Package:
    return make_package(version, "npu", model=name, devices=devices, overlay=overlay)


FIRST, SECOND = program("one", "1.0.0", ONE), program("two", "1.0.0", TWO)
NEWER = program("one", "1.1.0", TWO)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates have known figures; looks are frequent."""
    known(monkeypatch, FIGURES)
    monkeypatch.setattr(adaptation, "LOOK_S", 0.02)
    monkeypatch.setattr(adaptation, "ROOM_S", 0.3)


def want(rig: Rig, *packages: tuple[Package, Budget]) -> None:
    rig.revision += 1
    models = tuple(
        DesiredModel(p.model, "1.1.0" if p is NEWER else "1.0.0", p.digest, budget) for p, budget in packages
    )
    rig.journal.accept_desired("lab/n1", DesiredState(rig.revision, 1.0, 1e10, models))
    rig.manager.reconcile()


def devices(rig: Rig) -> dict[str, str]:
    return {name: worker.spec.candidate.device for name, worker in sorted(rig.pool.routes.items())}


def watch(rig: Rig) -> list[str]:
    """What starts on the FPGA, with who serves from there just then."""
    told: list[str] = []
    start = rig.pool.start

    async def watched(spec: Any) -> Any:
        there = [
            f"{name} {w.spec.version}"
            for name, w in sorted(rig.pool.routes.items())
            if w.spec.candidate.device == "fpga"
        ]
        told.append(
            f"{spec.model} {spec.version} on {spec.candidate.device} beside {', '.join(there) or 'nobody'}"
        )
        return await start(spec)

    rig.pool.start = watched  # type: ignore[method-assign]
    return told


def test_a_newer_version_for_another_overlay_comes_over_a_bridge(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        want(rig, (FIRST, EASY))
        await rig.settled()
        assert devices(rig) == {"one": "fpga"}
        told = watch(rig)
        want(rig, (NEWER, EASY))
        status = await rig.settled()
        assert status is not None and (status.state, status.running_version) == (State.SUCCEEDED, "1.1.0")
        assert told[-2:] == ["one 1.0.0 on cpu beside one 1.0.0", "one 1.1.0 on fpga beside nobody"]
        assert devices(rig) == {"one": "fpga"} and len(rig.pool.alive) == 1

    play(tmp_path, scenario, Source([FIRST, NEWER]), board=BOARD)


def test_a_newer_version_that_fails_after_the_bridge_leaves_the_old_one_there_until_it_goes_back(
    tmp_path: Path,
) -> None:
    async def scenario(rig: Rig) -> None:
        want(rig, (FIRST, EASY))
        await rig.settled()
        start, tries = rig.pool.start, 0

        async def failing(spec: Any) -> Any:
            nonlocal tries
            if spec.version == "1.1.0" and spec.candidate.device == "fpga":
                tries += 1
                if tries > 1:  # measured once
                    raise ModelLoadError("no memory on the chip")
            return await start(spec)

        rig.pool.start = failing  # type: ignore[method-assign]
        want(rig, (NEWER, EASY))
        status = await rig.settled()
        assert status is not None and (status.state, status.running_version) == (State.FAILED, "1.0.0")
        assert devices(rig)["one"] in ("cpu", "fpga") and len(rig.pool.alive) == 1

    play(tmp_path, scenario, Source([FIRST, NEWER]), board=BOARD)


def test_a_bridge_whose_device_turns_out_to_be_lost_is_none(tmp_path: Path) -> None:
    gpu = DeviceInfo("gpu", "gpu", "a GPU", CPU.backends)
    board = replace(BOARD, devices=(gpu, *BOARD.devices[1:]))
    old, new = (program("one", version, overlay, ("gpu", "fpga")) for version, overlay in VERSIONS)

    async def scenario(rig: Rig) -> None:
        want(rig, (old, EASY))
        await rig.settled()
        start, tries = rig.pool.start, 0

        async def failing(spec: Any) -> Any:
            nonlocal tries
            if spec.candidate.device == "gpu":
                tries += 1
                if tries > 1:  # measured once
                    raise DeviceLost("it fell off the bus")
            return await start(spec)

        rig.pool.start = failing  # type: ignore[method-assign]
        rig.revision += 1
        model = DesiredModel("one", "1.1.0", new.digest, EASY)
        rig.journal.accept_desired("lab/n1", DesiredState(rig.revision, 1.0, 1e10, (model,)))
        rig.manager.reconcile()
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and "fell off the bus" in status.why
        assert set(rig.manager.lost_devices) == {"gpu"} and devices(rig) == {"one": "fpga"}

    play(tmp_path, scenario, Source([old, new]), board=board)


def test_a_newcomer_takes_the_fpga_after_who_was_there_has_left(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        want(rig, (FIRST, EASY))
        await rig.settled()
        told = watch(rig)
        want(rig, (FIRST, EASY), (SECOND, BUDGETS["two"]))
        await rig.settled()
        assert devices(rig) == {"one": "cpu", "two": "fpga"}
        assert told[-2:] == ["one 1.0.0 on cpu beside one 1.0.0", "two 1.0.0 on fpga beside nobody"]

    play(tmp_path, scenario, Source([FIRST, SECOND]), board=BOARD)


def test_models_that_change_to_the_newcomers_overlay_are_bridged_and_come_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        want(rig, (EITHER, EASY), (TWIN, EASY))
        await rig.settled()
        assert devices(rig) == {"one": "fpga", "twin": "fpga"}
        told = watch(rig)
        want(rig, (EITHER, EASY), (TWIN, EASY), (SECOND, BUDGETS["two"]))
        await rig.settled()
        assert devices(rig) == {"one": "fpga", "twin": "fpga", "two": "fpga"}
        assert {name: worker.spec.candidate.variant for name, worker in rig.pool.routes.items()} == {
            "one": "w", "twin": "w", "two": "v"
        }  # fmt: skip
        moved = [text for text in told if not text.startswith("two 1.0.0 on cpu")]
        assert moved[-5:-1] == [
            "one 1.0.0 on cpu beside one 1.0.0, twin 1.0.0",
            "twin 1.0.0 on cpu beside twin 1.0.0",
            "one 1.0.0 on fpga beside nobody",
            "twin 1.0.0 on fpga beside one 1.0.0",
        ]
        assert len(rig.pool.alive) == 3

    play(tmp_path, scenario, Source([EITHER, TWIN, SECOND]), board=BOARD)


ONLY_FPGA = Budget(3.0, 10.0)
HELD = "fpga holds npu for one, whose priority is no lower"


def test_who_runs_is_not_disturbed_by_measuring_a_newcomer_of_its_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "measure_all", measuring.measure_all)

    async def scenario(rig: Rig) -> None:
        want(rig, (FIRST, ONLY_FPGA))
        await rig.settled()
        assert devices(rig) == {"one": "fpga"}
        told = watch(rig)
        want(rig, (FIRST, ONLY_FPGA), (SECOND, ONLY_FPGA))
        await rig.settled()
        two = next(status for status in rig.manager.statuses() if status.name == "two")
        assert two.state is State.REJECTED and f"; v on fpga was not measured: {HELD}" in two.why
        want(rig, (FIRST, ONLY_FPGA), (SECOND, EASY))
        await rig.settled()
        assert devices(rig) == {"one": "fpga", "two": "cpu"}
        benched = await rig.manager.bench("two")
        [fpga] = [v for v in benched["verdicts"] if v["candidate"]["device"] == "fpga"]
        assert fpga["reason"] == "not measured: fpga holds npu for one" and fpga["measurement"] is None
        assert not [text for text in told if " on fpga" in text]

    play(tmp_path, scenario, Source([FIRST, SECOND]), board=BOARD)


def test_who_has_less_priority_is_bridged_before_a_newcomer_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "measure_all", measuring.measure_all)

    async def scenario(rig: Rig) -> None:
        want(rig, (FIRST, ONLY_FPGA))
        await rig.settled()
        told = watch(rig)
        want(rig, (FIRST, ONLY_FPGA), (SECOND, replace(ONLY_FPGA, priority=1)))
        await rig.settled()
        assert devices(rig) == {"one": "cpu", "two": "fpga"}
        on_fpga = [text for text in told if " on fpga" in text]
        assert on_fpga == ["two 1.0.0 on fpga beside nobody"] * 2  # to measure, to serve
        assert [text for kind, text in rig.events() if kind == "replaced" and "bridged by v on cpu" in text]

    play(tmp_path, scenario, Source([FIRST, SECOND]), board=BOARD)


def test_a_newcomer_that_is_taken_back_meanwhile_leaves_no_half_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "measure_all", measuring.measure_all)

    async def scenario(rig: Rig) -> None:
        want(rig, (FIRST, ONLY_FPGA))
        await rig.settled()
        rig.pool.slow_s = 0.1  # flips and ends take their time
        want(rig, (FIRST, ONLY_FPGA), (SECOND, replace(ONLY_FPGA, priority=1)))
        while rig.pool.routes["one"].spec.candidate.device == "fpga":
            await asyncio.sleep(0.005)
        want(rig, (FIRST, ONLY_FPGA))
        await rig.settled()
        [status] = rig.manager.statuses()
        serving = rig.pool.routes["one"]
        assert rig.pool.alive == [serving] and status.candidate == serving.spec.candidate

    play(tmp_path, scenario, Source([FIRST, SECOND]), board=BOARD)


def test_who_was_bridged_for_nothing_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "measure_all", measuring.measure_all)

    async def scenario(rig: Rig) -> None:
        want(rig, (FIRST, ONLY_FPGA))
        await rig.settled()
        want(rig, (FIRST, ONLY_FPGA), (SECOND, Budget(0.5, 10.0, priority=1)))  # nothing is so quick
        await rig.settled()
        for _ in range(500):
            if devices(rig) == {"one": "fpga"}:
                break
            rig.serves(5, 0.004, "one")  # late, on the CPU
            await asyncio.sleep(0.01)
        assert devices(rig) == {"one": "fpga"} and len(rig.pool.alive) == 1

    play(tmp_path, scenario, Source([FIRST, SECOND]), board=BOARD)


EITHER = make_package("1.0.0", "npu", model="one", devices=("cpu", "fpga"), overlay=ONE, more={"w": TWO})
TWIN = make_package("1.0.0", "npu", model="twin", devices=("cpu", "fpga"), overlay=ONE, more={"w": TWO})
