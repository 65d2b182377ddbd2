"""Models in service move: the power cap changes, a device is lost or back."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.deploy import adaptation, ledger, lost
from agent.errors import DeviceLost, DmaTimeout, OverlayLoadError
from agent.types import (
    BackendInfo,
    BoardInfo,
    Budget,
    DeviceInfo,
    ModelStatus,
    Phase,
    Placement,
    State,
)
from tests.unit.deploy.figures import known, short_bars
from tests.unit.deploy.rig import Rig, Source, StandInPool, make_package, play

ONNX = (BackendInfo("onnxruntime", "1", ("onnx",)),)
BOARD = BoardInfo(
    "sim",
    True,
    (DeviceInfo("cpu", "cpu", "slow", ONNX), DeviceInfo("gpu", "gpu", "fast", ONNX)),
)
EVERYWHERE = ("cpu", "gpu")
V1, V2 = make_package("1.0.0", devices=EVERYWHERE), make_package("1.1.0", devices=EVERYWHERE)
GPU_ONLY = make_package("3.0.0", devices=("gpu",))
TIGHT = Budget(
    latency_p99_ms=1.5, rate_hz=10.0
)  # only the GPU meets it, with 6.1 W in all; the CPU draws 4.05 W
FIGURES = {"gpu": (1.0, 0.01, 2.0), "cpu": (3.1, 0.005, 0.0)}  # p99 ms, J a run, W held


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates have known figures, lost devices are probed often."""

    known(monkeypatch, FIGURES)
    monkeypatch.setattr(lost, "PROBE_S", 0.03)
    monkeypatch.setattr(adaptation, "LOOK_S", 0.02)
    short_bars(monkeypatch)


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")


async def on(rig: Rig, device: str) -> ModelStatus:
    """The status once the model's only worker serves on this device."""

    def there() -> bool:
        status = rig.status()
        route = rig.pool.routes.get("digits")
        return (
            status is not None
            and status.candidate is not None
            and route is not None
            and status.candidate.device == route.spec.candidate.device == device
            and rig.pool.alive == [route]
        )

    await until(there)
    status = rig.status()
    assert status is not None and status.state is State.SUCCEEDED and status.ready
    return status


def serves_on(rig: Rig, device: str) -> bool:
    return rig.pool.routes["digits"].spec.candidate.device == device


def placed(rig: Rig) -> Placement:
    placement = rig.manager.placement("digits")
    assert placement is not None
    return placement


def events(rig: Rig, *kinds: str) -> list[str]:
    assert rig.telemetry.flush()
    with contextlib.closing(sqlite3.connect(rig.folder / "telemetry.db")) as db:
        rows = db.execute("SELECT kind, text FROM events ORDER BY id").fetchall()
    return [f"{kind}: {text}" for kind, text in rows if kind in kinds]


def lose(rig: Rig, device: str = "gpu") -> None:
    """As the daemon does when a worker tells."""
    error = DeviceLost("it fell off the bus")
    rig.pool.refuses[device] = error
    rig.manager.unwell("digits", device, error)


def test_a_cap_that_falls_moves_the_model_and_one_that_rises_moves_it_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=7.0)
        await rig.settled()
        await on(rig, "gpu")
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)
        await rig.settled()  # a revision is applied when the moves that it causes have ended
        status = await on(rig, "cpu")
        assert status.why.startswith("node's cap 5 W: v on gpu would draw 6.1")
        assert status.why.endswith(" W; p99 3.1 ms > 1.5 ms is missed until the cap rises")
        kept = rig.journal.placement("digits", V1.digest)
        assert kept is not None and (kept.origin, kept.placement) == ("fleet", placed(rig))
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=None)
        await rig.settled()
        await on(rig, "gpu")
        first, second = events(rig, "replaced")
        assert first == (
            f"replaced: v on gpu (onnxruntime) -> v on cpu (onnxruntime): cap 7 W -> 5 W: {status.why}"
        )
        assert second.startswith(
            "replaced: v on cpu (onnxruntime) -> v on gpu (onnxruntime): cap 5 W -> none: the only feasible"
        )
        assert (
            rig.pool.started == 2 + 1 + 2
        )  # measured twice, deployed, moved twice: nothing is measured again

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_cap_that_changes_nothing_is_weighed_and_told(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        serving = rig.pool.routes["digits"]
        assert "cap" not in placed(rig).reason
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=6.5)
        await rig.settled()
        assert "node 6.1" in placed(rig).reason and "<= cap 6.5 W" in placed(rig).reason
        assert rig.pool.alive == [serving] and rig.pool.started == 3 and not events(rig, "replaced")

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_lost_device_is_left_at_once_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        lose(rig)
        assert rig.manager.lost_devices == {"gpu": "it fell off the bus"}
        status = await on(rig, "cpu")
        assert status.why == (
            "gpu is lost: it fell off the bus; p99 3.1 ms > 1.5 ms is missed until gpu is back"
        )
        await asyncio.sleep(0.1)  # probed meanwhile
        assert rig.manager.lost_devices
        rig.pool.refuses.clear()
        await on(rig, "gpu")
        assert rig.manager.lost_devices == {}
        assert [text.partition(":")[0] for text in events(rig, "device-lost", "device-back", "replaced")] == [
            "device-lost", "replaced", "device-back", "replaced",
        ]  # fmt: skip

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_without_another_device_the_model_says_why_until_it_is_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((GPU_ONLY, "3.0.0"), budget=TIGHT)
        await rig.settled()
        lose(rig)
        await until(lambda: rig.pool.held)
        why = "gpu is lost: it fell off the bus; nothing else here can run it"
        assert rig.pool.held == {"digits": why} and rig.pool.alive == []
        status = rig.status()
        assert status is not None and (status.ready, status.candidate, status.why) == (False, None, why)
        rig.pool.refuses.clear()
        status = await on(rig, "gpu")
        assert "lost" not in status.why and rig.pool.held == {}
        assert [text.split(": ")[1] for text in events(rig, "replaced")] == [
            "v on gpu (onnxruntime) -> nowhere", "nowhere -> v on gpu (onnxruntime)"
        ]  # fmt: skip

    play(tmp_path, scenario, Source([GPU_ONLY]), board=BOARD)


def test_a_worker_that_has_seen_its_device_get_lost_is_renewed_and_tells_nothing_new(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        rig.pool.wrong_on.add("cpu")  # nowhere else to go
        lose(rig)
        await until(lambda: "stays on v on gpu" in placed(rig).reason)
        start = rig.pool.start

        async def slow(spec: Any) -> Any:
            worker = await start(spec)
            await asyncio.sleep(0.05)
            rig.manager.unwell("digits", "gpu", DeviceLost("its session of before"))
            return worker

        rig.pool.start = slow  # type: ignore[method-assign]
        rig.pool.refuses.clear()
        await until(lambda: rig.pool.restarted == ["digits"])
        assert rig.manager.lost_devices == {}

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_move_that_fails_keeps_the_old_worker_and_is_tried_again(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=7.0)
        await rig.settled()
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)
        await on(rig, "cpu")
        serving, tried = rig.pool.routes["digits"], rig.pool.started
        rig.pool.wrong_on.add("gpu")
        rig.want((V1, "1.0.0"), budget=TIGHT)
        status = await rig.settled()
        assert rig.pool.alive == [serving] and rig.pool.routes["digits"] is serving
        assert status is not None and status.why == (
            "stays on v on cpu (onnxruntime): v on gpu (onnxruntime) could not take over: "
            "GoldenMismatch: y differs by 3.0 > 0.0"
        )

        def again() -> bool:
            rig.serves(1, 0.0031)
            return rig.pool.started >= tried + 2

        await until(again)  # by itself, while requests are late
        assert rig.pool.routes["digits"] is serving
        rig.pool.wrong_on.clear()

        def back() -> bool:
            rig.serves(1, 0.0031)
            return rig.pool.routes["digits"].spec.candidate.device == "gpu"

        await until(back)

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_cap_that_nothing_which_works_keeps_sheds_the_model_until_it_rises(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        rig.pool.wrong_on.add("cpu")
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)
        await until(lambda: rig.pool.held)
        assert rig.pool.alive == [] and "cap 5 W" in rig.pool.held["digits"]
        kept = rig.journal.placement("digits", V1.digest)
        assert kept is not None and kept.placement.shed
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await on(rig, "gpu")

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_model_that_could_not_be_moved_and_is_removed_is_weighed_no_more(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        rig.pool.wrong_on.add("cpu")
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)
        await rig.settled()
        rig.want()
        await rig.settled()
        tried = rig.pool.started
        await asyncio.sleep(0.2)
        assert rig.pool.started == tried and rig.pool.alive == []

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_device_that_cannot_be_opened_in_a_move_is_lost_too(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)
        await rig.settled()
        assert (await rig.settled()) is not None and rig.pool.routes == {}  # nothing was feasible to deploy
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)
        await on(rig, "cpu")
        rig.pool.refuses["gpu"] = OverlayLoadError("the bitstream is not taken")
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        status = await on(rig, "cpu")
        assert rig.manager.lost_devices == {"gpu": "the bitstream is not taken"}
        assert status.why.startswith("gpu is lost: the bitstream is not taken; ")
        rig.pool.refuses.clear()
        await on(rig, "gpu")

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_what_only_a_lost_device_could_do_is_deployed_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RETRY_S", 0.05)

    async def scenario(rig: Rig) -> None:
        rig.pool.refuses["gpu"] = DeviceLost("it fell off the bus")
        rig.want((V1, "1.0.0"), budget=TIGHT)
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED  # not REJECTED: it could have been met
        assert status.why == (
            "DeviceLost: it fell off the bus; no candidate meets the budget; "
            "the closest is v on cpu: p99 3.1 ms > 1.5 ms"
        )
        rig.pool.refuses.clear()
        await asyncio.sleep(0.06)
        rig.manager.reconcile()  # as it does by itself every half minute
        await on(rig, "gpu")

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_transfers_that_do_not_end_are_counted(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        for count in range(3):
            assert not rig.manager.lost_devices, count
            rig.manager.unwell("digits", "gpu", DmaTimeout("no interrupt within 1 s"))
        rig.pool.refuses["gpu"] = DmaTimeout("still")
        await on(rig, "cpu")
        assert events(rig, "device-unwell") == ["device-unwell: gpu: DmaTimeout: no interrupt within 1 s"] * 2

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_model_moves_while_its_next_version_downloads(tmp_path: Path) -> None:
    async def held() -> Source:
        return Source([V1, V2], hold=asyncio.Event(), held="1.1.0")

    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        rig.want((V2, "1.1.0"), budget=TIGHT)
        await until(lambda: rig.journal.latest()["digits"].phase is Phase.DOWNLOADING)
        lose(rig)
        await until(lambda: rig.pool.routes["digits"].spec.candidate.device == "cpu")
        assert rig.pool.routes["digits"].spec.version == "1.0.0"
        rig.pool.refuses.clear()
        await until(lambda: rig.pool.routes["digits"].spec.candidate.device == "gpu")
        assert rig.source.hold is not None
        rig.source.hold.set()
        await rig.settled()
        await on(rig, "gpu")
        assert placed(rig).digest == V2.digest

    play(tmp_path, scenario, asyncio.run(held()), board=BOARD)


def test_a_model_moves_while_its_next_version_is_measured(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=7.0)
        await rig.settled()
        start, profiling, go_on = rig.pool.start, asyncio.Event(), asyncio.Event()

        async def held(spec: Any) -> Any:
            if spec.version == "1.1.0":
                profiling.set()
                await go_on.wait()
            return await start(spec)

        rig.pool.start = held  # type: ignore[method-assign]
        rig.want((V2, "1.1.0"), budget=TIGHT, cap_w=7.0)
        await profiling.wait()
        for cap_w, device in ((5.0, "cpu"), (7.0, "gpu")):
            rig.want((V2, "1.1.0"), budget=TIGHT, cap_w=cap_w)
            await until(partial(serves_on, rig, device))
        assert rig.pool.routes["digits"].spec.version == "1.0.0"
        go_on.set()
        await rig.settled()
        await on(rig, "gpu")
        assert placed(rig).digest == V2.digest and "<= cap 7 W" in placed(rig).reason

    play(tmp_path, scenario, Source([V1, V2]), board=BOARD)


def test_a_cap_that_fell_while_a_deployment_soaked_moves_what_it_brought(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await until(lambda: "digits" in rig.pool.routes)
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)
        await rig.settled()
        await on(rig, "cpu")
        assert rig.journal.latest()["digits"].state is State.SUCCEEDED

    play(tmp_path, scenario, Source([V1]), board=BOARD)


def test_a_cap_that_changed_while_the_daemon_was_down_is_kept_after_the_start(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()
        await on(rig, "gpu")
        rig.want((V1, "1.0.0"), budget=TIGHT, cap_w=5.0)  # accepted, and the power goes

    async def second(rig: Rig) -> None:
        await on(rig, "cpu")

    play(tmp_path, first, Source([V1]), board=BOARD)
    play(tmp_path, second, Source([]), board=BOARD)


def test_a_device_that_is_lost_at_the_start_is_done_without_and_found_again(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((V1, "1.0.0"), budget=TIGHT)
        await rig.settled()

    async def second(rig: Rig) -> None:
        await on(rig, "cpu")
        assert rig.pool.started == 1  # not measured again
        assert rig.manager.lost_devices == {"gpu": "not on the bus"}
        rig.pool.refuses.clear()
        await on(rig, "gpu")

    play(tmp_path, first, Source([V1]), board=BOARD)
    away = StandInPool(refuses={"gpu": DeviceLost("not on the bus")})
    play(tmp_path, second, Source([]), away, board=BOARD)


def test_a_model_whose_only_device_is_lost_at_the_start_waits_for_it(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((GPU_ONLY, "3.0.0"), budget=TIGHT)
        await rig.settled()

    async def second(rig: Rig) -> None:
        await until(rig.manager.restored.is_set)
        status = rig.status()
        assert status is not None and not status.ready and status.state is State.SUCCEEDED
        assert status.why == "gpu is lost: not on the bus; nothing else here can run it"
        assert rig.pool.held == {"digits": status.why}  # answered 503 with the reason
        rig.pool.refuses.clear()
        status = await on(rig, "gpu")
        assert "lost" not in status.why

    play(tmp_path, first, Source([GPU_ONLY]), board=BOARD)
    away = StandInPool(refuses={"gpu": OverlayLoadError("not on the bus")})
    play(tmp_path, second, Source([]), away, board=BOARD)


def test_a_lost_device_that_no_model_can_use_any_more_is_forgotten(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((GPU_ONLY, "3.0.0"), budget=TIGHT)
        await rig.settled()
        lose(rig)
        rig.want()
        await rig.settled()
        await until(lambda: not rig.manager.lost_devices)
        assert events(rig, "device-back") == ["device-back: no model here can use device gpu any more"]

    play(tmp_path, scenario, Source([GPU_ONLY]), board=BOARD)
