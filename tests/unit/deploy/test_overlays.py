"""Overlays as packages: installed for programs, kept in versions, missed by name."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.deploy.overlays import delivered
from agent.types import SELF_TEST, BackendInfo, BoardInfo, DeviceInfo, OverlayRef, State
from tests.unit.deploy.rig import BOARD, Package, Rig, Source, StandInWorker, make_package, play

NEW, NEWER = OverlayRef("npu", 2, 16), OverlayRef("npu", 3, 16)
FPGA = DeviceInfo(
    "fpga", "fpga", "logic", (BackendInfo("npu", "1", ("npu",)), BackendInfo(SELF_TEST, "1", ("overlay",))),
    overlays=(OverlayRef("npu", 1, 16),),
)  # fmt: skip
WITH_FPGA = BoardInfo("local", False, (*BOARD.devices, FPGA))


def overlay(ref: OverlayRef) -> Package:
    return make_package(str(ref.version), "overlay", model="npu", devices=("fpga",), overlay=ref)


def program(ref: OverlayRef) -> Package:
    return make_package("1.0.0", "npu", devices=("fpga",), overlay=ref)


def state_of(rig: Rig, model: str) -> tuple[State, str]:
    status = next(status for status in rig.manager.statuses() if status.name == model)
    return status.state, status.why


def test_an_overlay_is_installed_and_no_worker_of_it_stays(tmp_path: Path) -> None:
    package = overlay(NEW)

    async def scenario(rig: Rig) -> None:
        rig.want((package, "2"))
        await rig.settled()
        assert state_of(rig, "npu") == (
            State.SUCCEEDED,
            "installed for programs: its self-test agrees on fpga",
        )
        assert rig.pool.started == 1 and rig.pool.alive == [] and rig.pool.routes == {}
        assert list(delivered(rig.manager._res)) == [NEW]

    async def after_a_restart(rig: Rig) -> None:
        rig.revision = 1
        await rig.settled()
        assert state_of(rig, "npu")[0] is State.SUCCEEDED
        assert rig.pool.started == 0 and not rig.pool.expected
        rig.want()
        await rig.settled()
        assert rig.store.models() == {} and not delivered(rig.manager._res)

    play(tmp_path, scenario, Source([package]), board=WITH_FPGA)
    play(tmp_path, after_a_restart, Source([package]), board=WITH_FPGA)


def test_an_overlay_that_fails_its_self_test_is_not_installed(tmp_path: Path) -> None:
    good, bad = overlay(NEW), overlay(NEWER)

    async def scenario(rig: Rig) -> None:
        rig.want((good, "2"))
        await rig.settled()
        rig.pool.wrong.add("3")
        rig.want((bad, "3"))
        await rig.settled()
        state, why = state_of(rig, "npu")
        assert state is State.FAILED and "GoldenMismatch" in why
        assert list(delivered(rig.manager._res)) == [NEW]

    play(tmp_path, scenario, Source([good, bad]), board=WITH_FPGA)


def test_the_overlay_before_stays_for_programs_that_need_it(tmp_path: Path) -> None:
    old, new, needs_old = overlay(NEW), overlay(NEWER), program(NEW)

    async def scenario(rig: Rig) -> None:
        rig.want((old, "2"))
        await rig.settled()
        rig.want((new, "3"))
        await rig.settled()
        assert list(delivered(rig.manager._res)) == [NEWER, NEW]
        rig.want((new, "3"), (needs_old, "1.0.0"))
        await rig.settled()
        assert state_of(rig, "digits")[0] is State.SUCCEEDED
        assert rig.pool.routes["digits"].spec.file.overlay == delivered(rig.manager._res)[NEW]

    play(tmp_path, scenario, Source([old, new, needs_old]), board=WITH_FPGA)


def test_an_overlay_goes_after_the_last_program_on_it(tmp_path: Path) -> None:
    package, needs = overlay(NEW), program(NEW)

    async def scenario(rig: Rig) -> None:
        rig.want((package, "2"))
        await rig.settled()
        rig.want((package, "2"), (needs, "1.0.0"))
        await rig.settled()
        rig.want((needs, "1.0.0"))
        await rig.settled()
        assert state_of(rig, "digits")[0] is State.SUCCEEDED
        assert rig.pool.routes["digits"].spec.file.overlay == delivered(rig.manager._res)[NEW]
        rig.want()
        await rig.settled()
        assert rig.store.models() == {} and not delivered(rig.manager._res)

    play(tmp_path, scenario, Source([package, needs]), board=WITH_FPGA)


def test_a_program_for_an_overlay_that_ships_needs_no_package(tmp_path: Path) -> None:
    package = program(OverlayRef("npu", 1, 16))

    async def scenario(rig: Rig) -> None:
        rig.want((package, "1.0.0"))
        await rig.settled()
        assert state_of(rig, "digits")[0] is State.SUCCEEDED
        assert rig.pool.routes["digits"].spec.file.overlay is None

    play(tmp_path, scenario, Source([package]), board=WITH_FPGA)


def test_a_program_waits_for_its_overlay(tmp_path: Path) -> None:
    package, needs = overlay(NEW), program(NEW)

    async def scenario(rig: Rig) -> None:
        rig.want((needs, "1.0.0"))
        await rig.settled()
        state, why = state_of(rig, "digits")
        assert state is State.FAILED
        assert (
            "needs overlay npu version 2 (16 x 16 MAC); fpga has npu version 1 (16 x 16 MAC): deploy" in why
        )
        rig.want((needs, "1.0.0"), (package, "2"))
        for _ in range(500):
            if state_of(rig, "digits")[0] is State.SUCCEEDED:
                break
            await asyncio.sleep(0.01)
        assert state_of(rig, "digits")[0] is State.SUCCEEDED

    play(tmp_path, scenario, Source([package, needs]), board=WITH_FPGA)


def test_an_array_of_another_shape_is_another_overlay(tmp_path: Path) -> None:
    package = program(OverlayRef("npu", 1, 8))

    async def scenario(rig: Rig) -> None:
        rig.want((package, "1.0.0"))
        await rig.settled()
        state, why = state_of(rig, "digits")
        assert state is State.FAILED and "needs overlay npu version 1 (8 x 8 MAC)" in why

    play(tmp_path, scenario, Source([package]), board=WITH_FPGA)


def test_a_model_that_runs_elsewhere_moves_when_its_overlay_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def profile(worker: StandInWorker, seconds: float, max_runs: int) -> list[float]:
        del seconds
        return [0.0005 if worker.spec.candidate.device == "fpga" else 0.001] * min(500, max_runs)

    monkeypatch.setattr(StandInWorker, "profile", profile)
    package = overlay(NEW)
    needs = make_package("1.0.0", "npu", devices=("fpga", "cpu"), overlay=NEW)
    cpu = replace(BOARD.devices[0], backends=(BackendInfo("program", "1", ("npu",)),))
    board = replace(WITH_FPGA, devices=(cpu, FPGA))

    async def scenario(rig: Rig) -> None:
        rig.want((needs, "1.0.0"))
        await rig.settled()
        assert rig.pool.routes["digits"].spec.candidate.device == "cpu"
        rig.want((needs, "1.0.0"), (package, "2"))
        for _ in range(500):
            if rig.pool.routes["digits"].spec.candidate.device == "fpga":
                break
            await asyncio.sleep(0.01)
        assert rig.pool.routes["digits"].spec.candidate.device == "fpga"

    play(tmp_path, scenario, Source([package, needs]), board=board)
