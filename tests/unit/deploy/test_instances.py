"""Several instances of a model, and runs that answer several requests: from what is desired to the worker's spec."""

from __future__ import annotations

from pathlib import Path

from agent.serving.spec import WorkerSpec
from agent.types import BackendInfo, BoardInfo, Budget, DeviceInfo, State
from tests.unit.deploy.rig import BUDGET, Rig, Source, StandInPool, make_package, play

FREE = make_package("1.0.0", batch=-1)
FIXED = make_package("1.0.0")
ON_GPU = make_package("1.0.0", devices=("gpu",))
GPU_BOARD = BoardInfo(
    "local", False, (DeviceInfo("gpu0", "gpu", "a GPU", (BackendInfo("onnxruntime", "1", ("onnx",)),)),)
)
PAYS = {1: [0.0010] * 9, 2: [0.0012] * 9, 4: [0.0016] * 9, 8: [0.0031] * 9}  # x 1.6, 2.2, 2.3


def serving(rig: Rig) -> WorkerSpec:
    (worker,) = rig.pool.alive
    assert rig.pool.routes["digits"] is worker
    return worker.spec


def test_instances_reach_the_worker_and_are_kept_over_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((FIXED, "1.0.0"))
        await rig.settled()
        assert serving(rig).instances == 1
        rig.want((FIXED, "1.0.0"), instances=4)
        await rig.settled()
        assert serving(rig).instances == 4

    async def second(rig: Rig) -> None:
        await rig.manager.restored.wait()
        assert serving(rig).instances == 4 and rig.pool.started == 1

    play(tmp_path, first, Source([FIXED]))
    play(tmp_path, second, Source([]))


def test_only_a_cpu_has_several_instances(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((ON_GPU, "1.0.0"), instances=4)
        status = await rig.settled()
        assert status is not None and status.state is State.SUCCEEDED
        assert serving(rig).instances == 1

    play(tmp_path, scenario, Source([ON_GPU]), board=GPU_BOARD)


def test_a_batch_that_pays_is_explained_and_kept_over_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((FREE, "1.0.0"))
        status = await rig.settled()
        assert status is not None and "up to 4 requests in a run (2.2 x as many)" in status.why
        assert serving(rig).max_batch == 4

    async def second(rig: Rig) -> None:
        await rig.manager.restored.wait()
        assert serving(rig).max_batch == 4 and rig.pool.started == 1
        placement = rig.manager.placement("digits")
        assert placement is not None and "up to 4 requests" in placement.reason

    play(tmp_path, first, Source([FREE]), StandInPool(batch_times=PAYS))
    play(tmp_path, second, Source([]))


def test_no_batches_where_they_cannot_be_are_of_no_use_or_take_too_long(tmp_path: Path) -> None:
    hurried = Budget(2.2, 10.0)
    for number, (package, times, budget) in enumerate(
        (
            (FIXED, PAYS, BUDGET),
            (FREE, None, BUDGET),
            (FREE, {1: [0.001] * 9, 2: [0.0019] * 9}, BUDGET),
            (FREE, PAYS, hurried),
        )
    ):

        async def scenario(rig: Rig, package=package, budget=budget) -> None:  # type: ignore[no-untyped-def]
            rig.want((package, "1.0.0"), budget=budget)
            status = await rig.settled()
            assert status is not None and status.state is State.SUCCEEDED
            assert "requests in a run" not in status.why and serving(rig).max_batch == 1

        play(tmp_path / str(number), scenario, Source([package]), StandInPool(batch_times=times))


def test_batches_are_not_tried_where_another_model_would_wait_for_them(tmp_path: Path) -> None:
    free = [make_package("1.0.0", model=name, devices=("gpu",), batch=-1) for name in ("one", "two")]

    async def scenario(rig: Rig) -> None:
        rig.want((free[0], "1.0.0"))
        await rig.settled()
        rig.want((free[0], "1.0.0"), (free[1], "1.0.0"))
        await rig.settled()
        batches = {name: worker.spec.max_batch for name, worker in rig.pool.routes.items()}
        assert batches == {"one": 4, "two": 1}

    play(tmp_path, scenario, Source(free), StandInPool(batch_times=PAYS), board=GPU_BOARD)
