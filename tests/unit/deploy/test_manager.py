"""Deployments: success, failure, rollback, recovery."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.deploy import ledger
from agent.deploy.journal import Deployment
from agent.errors import DeviceLost, MessageError, StoreError, UsageError
from agent.package.manifest import Block
from agent.serving.spec import WorkerSpec
from agent.types import Binding, DesiredModel, DesiredState, Phase, State
from tests.unit.deploy.rig import (
    BUDGET,
    Package,
    Rig,
    Source,
    StandInPool,
    StandInWorker,
    make_package,
    play,
    write_package,
)

V1, V2, OTHER = make_package("1.0.0"), make_package("1.1.0"), make_package("2.0.0", model="kws")


def test_a_deployment_succeeds_and_the_previous_version_is_kept(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        first = await rig.settled()
        assert first is not None and (first.state, first.running_version) == (State.SUCCEEDED, "1.0.0")
        rig.want((V2, "1.1.0"))
        second = await rig.settled()
        assert second is not None and (second.state, second.running_version) == (State.SUCCEEDED, "1.1.0")
        versions = rig.store.versions("digits")
        assert (versions.current, versions.previous) == (V2.digest, V1.digest)
        assert len(rig.pool.alive) == 1

    play(tmp_path, scenario, Source([V1, V2]))


def test_what_is_built_for_a_model_is_shown_meanwhile(tmp_path: Path) -> None:
    pool, go = StandInPool(), asyncio.Event()
    start = pool.start

    async def building(spec: WorkerSpec) -> StandInWorker:
        worker = await start(spec)
        if pool.started == 1:
            worker.building.began("the engine of digits")
            pool.builds.changed(worker)  # type: ignore[arg-type]
            await go.wait()
            worker.building.ended()
            pool.builds.changed(worker)  # type: ignore[arg-type]
        return worker

    pool.start = building  # type: ignore[method-assign]

    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        while not pool.started:
            await asyncio.sleep(0.01)
        status = rig.status()
        assert status is not None
        assert (status.state, status.phase) == (State.IN_PROGRESS, Phase.PROFILING)
        assert status.why == "building the engine of digits"
        go.set()
        done = await rig.settled()
        assert done is not None and done.state is State.SUCCEEDED
        assert "building" not in done.why

    play(tmp_path, scenario, Source([V1]), pool)


@pytest.mark.parametrize(("fault", "why"), [("wrong", "GoldenMismatch"), ("corrupt", "ModelLoadError")])
def test_a_bad_version_never_takes_over(tmp_path: Path, fault: str, why: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        serving = rig.pool.routes["digits"]
        getattr(rig.pool, fault).add("1.1.0")
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and status.state in (State.FAILED, State.REJECTED)
        assert (status.version, status.running_version) == ("1.1.0", "1.0.0") and why in status.why
        assert rig.pool.routes["digits"] is serving and rig.pool.alive == [serving]
        before = rig.pool.started
        rig.manager.reconcile()
        await asyncio.sleep(0.05)
        assert rig.pool.started == before  # a failed digest waits for the next revision

    play(tmp_path, scenario, Source([V1, V2]))


def test_a_worker_that_dies_while_soaking_is_rolled_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        old = rig.pool.routes["digits"]
        rig.pool.dies_in_soak.add("1.1.0")
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and "SoakFailed" in status.why
        assert rig.pool.routes["digits"] is old and rig.pool.alive == [old]
        assert rig.store.versions("digits").current == V1.digest

    play(tmp_path, scenario, Source([V1, V2]))


def test_a_device_that_is_lost_while_soaking_is_the_reason_and_heals(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.pool.fails_requests.add("1.1.0")
        rig.pool.fails_with = DeviceLost("cpu does not answer")
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and status.why.startswith("DeviceLost: cpu does not answer")
        assert rig.journal.latest()["digits"].why.startswith(ledger.HEALING)
        assert rig.store.versions("digits").current == V1.digest

    play(tmp_path, scenario, Source([V1, V2]))


def test_a_failed_first_deployment_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.pool.dies_in_soak.add("1.0.0")
        rig.want((V1, "1.0.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and status.running_version is None
        assert rig.pool.routes == {} and rig.pool.alive == []

    play(tmp_path, scenario, Source([V1]))


@pytest.mark.parametrize(
    ("package", "word"),
    [
        (make_package("1.0.0", format_="tflite"), "NoFeasibleCandidate"),
        (make_package("9.9.9"), "ManifestError"),  # another version than the desired state names
    ],
)
def test_packages_that_can_never_run_here_are_rejected(tmp_path: Path, package: Package, word: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((package, "1.0.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.REJECTED and word in status.why

    play(tmp_path, scenario, Source([package]))


def test_a_block_that_the_server_lacks_fails_by_name(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and "BlockMissing" in status.why

    play(tmp_path, scenario, Source([]))


def test_a_newer_desired_state_supersedes_and_a_cancel_cancels(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await asyncio.sleep(0.1)
        assert (rig.status() or V1) and rig.journal.latest()["digits"].state is State.IN_PROGRESS
        rig.want((V2, "1.1.0"))
        await asyncio.sleep(0.1)
        assert rig.journal.latest()["digits"].model.version == "1.1.0"
        assert rig.manager.cancel("digits")
        status = await rig.settled()
        assert status is not None and status.state is State.CANCELED
        assert not rig.manager.cancel("digits")

    async def with_held_blocks() -> Source:
        return Source([V1, V2], hold=asyncio.Event())

    play(tmp_path, scenario, asyncio.run(with_held_blocks()))


def test_undeploy_removes_worker_files_and_placement(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.want()
        assert await rig.settled() is None
        assert rig.pool.alive == [] and rig.store.models() == {} and rig.store.used_bytes() == 0

    play(tmp_path, scenario, Source([V1]))


def test_after_a_restart_the_model_serves_again_without_a_download(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()

    async def second(rig: Rig) -> None:
        rig.revision = 1
        status = await rig.settled()
        assert status is not None and status.running_version == "1.0.0" and status.ready
        assert rig.source.asked == [] and rig.pool.started == 1

    play(tmp_path, first, Source([V1]))
    play(tmp_path, second, Source([]))


def test_a_version_that_no_longer_starts_goes_back_to_the_previous_one(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.want((V2, "1.1.0"))
        await rig.settled()

    async def second(rig: Rig) -> None:
        await asyncio.sleep(0.3)
        assert rig.pool.routes["digits"].spec.version == "1.0.0"

    play(tmp_path, first, Source([V1, V2]))
    play(tmp_path, second, Source([]), StandInPool(wrong={"1.1.0"}))


def test_an_interrupted_deployment_is_resumed_but_not_for_ever(tmp_path: Path) -> None:
    async def held() -> Source:
        return Source([V1], hold=asyncio.Event())

    async def interrupted(rig: Rig) -> None:
        rig.journal.forgive = lambda deployment: None  # type: ignore[method-assign] # kill -9 leaves no time for that
        if rig.revision == 0 and not rig.journal.desired():
            rig.want((V1, "1.0.0"))
        await asyncio.sleep(0.1)

    async def fourth(rig: Rig) -> None:
        rig.revision = 1
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and "stopped 3 times" in status.why

    for _ in range(3):
        play(tmp_path, interrupted, asyncio.run(held()))
    play(tmp_path, fourth, Source([V1]))


def test_a_model_that_waits_for_its_blocks_holds_no_other_up(tmp_path: Path) -> None:
    async def held() -> Source:
        return Source([V1, OTHER], hold=asyncio.Event(), held="1.0.0")

    async def scenario(rig: Rig) -> None:
        models = (
            DesiredModel("digits", "1.0.0", V1.digest, BUDGET),
            DesiredModel("kws", "2.0.0", OTHER.digest, BUDGET),
        )
        rig.journal.accept_desired("lab/n1", DesiredState(1, 1.0, 1e10, models))
        rig.manager.reconcile()
        while "kws" not in rig.pool.routes:
            await asyncio.sleep(0.01)
        assert rig.manager.revision_applied == 0 and rig.manager.revision_seen == 1
        rig.journal.accept_desired("lab/n1", DesiredState(2, 1.0, 1e10, models[:1]))
        rig.manager.reconcile()
        while rig.pool.routes:
            await asyncio.sleep(0.01)
        assert rig.journal.latest()["digits"].state is State.IN_PROGRESS

    play(tmp_path, scenario, asyncio.run(held()))


def test_a_block_that_is_damaged_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        model = next(sha for sha, data in V1.blocks.items() if data.startswith(b"1.0.0"))
        real = rig.store.put_block

        def damage(block: Block, data: bytes) -> None:
            real(block, data)
            if block.sha256 == model and rig.source.asked.count(model) == 1:
                part = next(p for p in (rig.folder / "store/arriving").iterdir() if data in p.read_bytes())
                part.write_bytes(part.read_bytes().replace(data, bytes(len(data))))

        rig.store.put_block = damage  # type: ignore[method-assign]
        rig.want((V1, "1.0.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.SUCCEEDED
        assert rig.source.asked.count(model) == 2

    play(tmp_path, scenario, Source([V1]))


def test_a_local_package_deploys_and_the_fleets_models_are_the_fleets(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", V1)

    async def scenario(rig: Rig) -> None:
        await rig.manager.restored.wait()
        deployment = rig.manager.deploy_local(folder, BUDGET)
        while not (done := rig.manager.outcome(deployment.id)) or not done.state.final:
            await asyncio.sleep(0.01)
        assert done.state is State.SUCCEEDED
        rig.want()  # the fleet wants nothing: a local model stays
        await rig.settled()
        assert "digits" in rig.pool.routes
        await rig.manager.undeploy_local("digits")
        assert rig.pool.alive == []
        rig.want((V1, "1.0.0"))
        await rig.settled()
        with pytest.raises(UsageError, match="fleet manages"):
            rig.manager.deploy_local(folder, BUDGET)
        with pytest.raises(UsageError, match="fleet manages"):
            await rig.manager.undeploy_local("digits")

    play(tmp_path, scenario, Source([V1]))


def test_requests_that_fail_in_the_soak_roll_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and "2 of 9 requests failed" in status.why
        assert rig.pool.routes["digits"].spec.version == "1.0.0"

    play(tmp_path, scenario, Source([V1, V2]), StandInPool(fails_requests={"1.1.0"}))


def test_a_full_disk_at_the_commit_puts_the_old_version_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        old = rig.pool.routes["digits"]

        def refuse(*_: object) -> None:
            raise StoreError("no space left on device")

        rig.store.commit = refuse  # type: ignore[method-assign,assignment]
        enter = rig.journal.enter

        def full(deployment: Deployment, phase: Phase, why: str = "") -> None:
            if phase is Phase.ROLLING_BACK:
                refuse()
            enter(deployment, phase, why)

        rig.journal.enter = full  # type: ignore[method-assign]
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and "no space" in status.why
        assert rig.pool.routes["digits"] is old and rig.pool.alive == [old]

    play(tmp_path, scenario, Source([V1, V2]))


def test_undeploy_and_deploy_in_one_breath_leaves_the_model_in_service(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.pool.slow_s = 0.05
        for _ in range(3):
            rig.want()
            await asyncio.sleep(0.02)
            rig.want((V1, "1.0.0"))
            status = await rig.settled()
            assert status is not None and status.ready and status.running_version == "1.0.0"

    play(tmp_path, scenario, Source([V1]))


def test_a_cancel_in_the_middle_of_the_flip_takes_the_flip_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        old = rig.pool.routes["digits"]
        rig.pool.slow_s = 0.1
        rig.want((V2, "1.1.0"))
        while rig.pool.routes["digits"] is old:
            await asyncio.sleep(0.005)
        assert rig.manager.cancel("digits")
        status = await rig.settled()
        assert status is not None and (status.state, status.running_version) == (State.CANCELED, "1.0.0")
        assert rig.pool.routes["digits"] is old and rig.pool.alive == [old]

    play(tmp_path, scenario, Source([V1, V2]))


def test_what_has_succeeded_cannot_be_canceled_any_more(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.want((V2, "1.1.0"))
        rig.pool.slow_s = 0.3  # the old worker takes its time to stop
        while rig.store.versions("digits").current != V2.digest:
            await asyncio.sleep(0.005)
        rig.manager.cancel("digits")
        status = await rig.settled()
        assert status is not None and (status.state, status.running_version) == (State.SUCCEEDED, "1.1.0")

    play(tmp_path, scenario, Source([V1, V2]))


def test_a_file_that_rotted_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()

    play(tmp_path, first, Source([V1]))
    model = next(
        path for path in (tmp_path / "store/files").iterdir() if path.read_bytes().startswith(b"1.0.0")
    )
    model.write_bytes(bytes(model.stat().st_size))

    async def second(rig: Rig) -> None:
        rig.revision = 1
        while not model.exists() or not model.read_bytes().startswith(b"1.0.0"):
            await asyncio.sleep(0.01)
        status = await rig.settled()
        assert status is not None and (status.state, status.running_version) == (State.SUCCEEDED, "1.0.0")

    # The worker finds it out at the start; the second start is of the healed file.
    play(tmp_path, second, Source([V1]), StandInPool(rotten=model))


def test_a_failed_restart_can_be_undeployed(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()

    async def second(rig: Rig) -> None:
        rig.revision = 1
        await rig.settled()
        rig.want()
        assert await rig.settled() is None and rig.store.models() == {}

    play(tmp_path, first, Source([V1]))
    play(tmp_path, second, Source([V1]), StandInPool(corrupt={"1.0.0"}))


def test_a_disk_that_was_full_for_a_moment_loses_nothing(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        queue = rig.journal.queue

        def refuse(*_: object) -> Deployment:
            rig.journal.queue = queue  # type: ignore[method-assign]
            raise StoreError("no space left on device")

        rig.journal.queue = refuse  # type: ignore[method-assign,assignment]
        rig.want((V1, "1.0.0"))
        await asyncio.sleep(0.1)
        assert rig.status() is None
        rig.manager.reconcile()  # as it does by itself every half minute
        status = await rig.settled()
        assert status is not None and status.state is State.SUCCEEDED

    play(tmp_path, scenario, Source([V1]))


def test_more_models_than_can_be_reported_are_refused(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        def state(prefix: str, count: int) -> DesiredState:
            models = tuple(DesiredModel(f"{prefix}{i}", "1", "0" * 64, BUDGET) for i in range(count))
            return DesiredState(1, 1.0, 1e10, models)

        rig.journal.accept_desired("lab/n1", state("a", 200))
        rig.manager.admit("lab/group/g", state("b", 56))
        with pytest.raises(MessageError, match="257 models"):
            rig.manager.admit("lab/group/g", state("b", 57))

    async def run() -> None:
        rig = Rig(tmp_path, Source([]), groups=("lab/group/g",))
        try:
            await scenario(rig)
        finally:
            rig.close()

    asyncio.run(run())


def test_bindings_that_close_a_circle_with_the_groups_are_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Source([]), groups=("lab/group/g",))
    try:
        there, back = Binding("a", "m", "b/n1"), Binding("b/{node}", "m", "a")
        rig.journal.accept_desired("lab/n1", DesiredState(1, 1.0, 1e10, bindings=(there,)))
        with pytest.raises(MessageError, match="a -> m -> b/n1; b/n1 -> m -> a"):
            rig.manager.admit("lab/group/g", DesiredState(2, 1.0, 1e10, bindings=(back,)))
        rig.manager.admit("lab/group/g", DesiredState(2, 1.0, 1e10, bindings=(there,)))
    finally:
        rig.close()


def test_a_deployment_that_is_stopped_before_its_first_step_ends_too(tmp_path: Path) -> None:
    async def held() -> Source:
        return Source([V1], hold=asyncio.Event())

    async def first(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await asyncio.sleep(0.1)

    async def second(rig: Rig) -> None:
        rig.revision = 1
        rig.want()  # while the daemon was away the fleet lost its interest
        assert await rig.settled() is None
        assert rig.journal.latest()["digits"].state is State.SUPERSEDED
        assert rig.journal.unfinished() == []

    play(tmp_path, first, asyncio.run(held()))
    play(tmp_path, second, Source([V1]))


def test_local_deployments_in_one_breath_leave_nothing_open(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", V1)

    async def scenario(rig: Rig) -> None:
        await rig.manager.restored.wait()
        for _ in range(3):
            last = rig.manager.deploy_local(folder, BUDGET)
        while not (done := rig.manager.outcome(last.id)) or not done.state.final:
            await asyncio.sleep(0.01)
        assert done.state is State.SUCCEEDED
        await asyncio.sleep(0.05)
        assert not rig.manager.cancel("digits") and rig.journal.unfinished() == []

    play(tmp_path, scenario, Source([]))


def test_what_a_full_store_refused_is_deployed_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RETRY_S", 0.05)

    async def scenario(rig: Rig) -> None:
        reserve = rig.store.reserve

        def refuse(nbytes: int) -> None:
            raise StoreError(f"{nbytes} bytes more do not fit")

        rig.store.reserve = refuse  # type: ignore[method-assign]
        rig.want((V1, "1.0.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and "StoreError" in status.why
        rig.store.reserve = reserve  # type: ignore[method-assign]
        await asyncio.sleep(0.06)
        rig.manager.reconcile()  # as it does by itself every half minute
        for _ in range(500):
            if (status := rig.status()) is not None and status.state is State.SUCCEEDED:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"not deployed: {rig.status()}")

    play(tmp_path, scenario, Source([V1]))


def test_a_stop_that_comes_too_late_does_not_change_how_a_deployment_ended(tmp_path: Path) -> None:
    """Its task may swallow the cancellation at its last step, as wait_for does in Python before 3.12."""

    async def scenario(rig: Rig) -> None:
        finish = rig.journal.finish

        def finish_and_cancel(deployment: Deployment, state: State, why: str) -> None:
            rig.manager.cancel("digits")
            finish(deployment, state, why)

        rig.journal.finish = finish_and_cancel  # type: ignore[method-assign]
        rig.want((V1, "1.0.0"))
        status = await rig.settled()
        assert status is not None and (status.state, status.running_version) == (State.SUCCEEDED, "1.0.0")
        assert rig.journal.latest()["digits"].state is State.SUCCEEDED

    play(tmp_path, scenario, Source([V1]))


def test_what_arrived_of_a_download_that_is_tried_again_outlives_other_deployments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(rig: Rig) -> None:
        put = rig.store.put_block
        arrived: list[str] = []

        def fails_after_two(block: Block, data: bytes) -> None:
            if len(arrived) == 2:
                raise StoreError("the disk refused for a moment")
            arrived.append(block.sha256)
            put(block, data)

        rig.store.put_block = fails_after_two  # type: ignore[method-assign]
        rig.want((V1, "1.0.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED
        rig.store.put_block = put  # type: ignore[method-assign]
        local = rig.manager.deploy_local(write_package(tmp_path / "kws", OTHER), BUDGET)
        for _ in range(500):
            if rig.journal.find([local.id])[0].state.final:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # its cleaning up
        rig.source.asked.clear()
        monkeypatch.setattr(ledger, "RETRY_S", 0.0)
        rig.manager.reconcile()
        for _ in range(500):
            if rig.journal.latest()["digits"].state is State.SUCCEEDED:
                break
            await asyncio.sleep(0.01)
        assert rig.journal.latest()["digits"].state is State.SUCCEEDED
        assert rig.source.asked == []  # the third block is one of the other package, too

    play(tmp_path, scenario, Source([V1]))


def test_what_arrived_of_a_download_that_nobody_wants_any_more_goes(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        def refuse(*_: object) -> None:
            raise StoreError("the disk refused for a moment")

        put, rig.store.put_block = rig.store.put_block, refuse  # type: ignore[method-assign,assignment]
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.store.put_block = put  # type: ignore[method-assign]
        rig.want((OTHER, "2.0.0"))
        status = await rig.settled()
        assert status is not None
        await asyncio.sleep(0.05)
        assert [path.name for path in (tmp_path / "store" / "arriving").iterdir()] == []

    play(tmp_path, scenario, Source([V1, OTHER]))
