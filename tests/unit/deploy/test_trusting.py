"""What may be installed: asked anew at each attempt, of what is installed never; what is refused is tried again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.deploy import ledger
from agent.errors import (
    MetadataExpired,
    OverlaidError,
    RepositoryError,
    RootMissing,
    StoreError,
    UnknownTarget,
)
from agent.types import State
from tests.unit.deploy.rig import BUDGET, Rig, Source, make_package, play, write_package

V1, V2, V3 = make_package("1.0.0"), make_package("1.1.0"), make_package("1.2.0")


async def until(rig: Rig, state: State) -> None:
    for _ in range(500):
        if (status := rig.status()) is not None and status.state is state:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not {state}: {rig.status()}")


@pytest.mark.parametrize(
    "error", [RepositoryError, *RepositoryError.__subclasses__()], ids=lambda error: error.__name__
)
def test_what_may_not_be_installed_is_rejected_by_name_and_the_old_version_serves_on(
    tmp_path: Path, error: type[RepositoryError]
) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.verifier.refuses = error("for a reason")
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.REJECTED
        assert status.why == f"{error.__name__}: for a reason" and status.running_version == "1.0.0"
        assert rig.pool.routes["digits"].spec.version == "1.0.0"
        assert V2.digest not in rig.source.asked and not set(V2.blocks) - set(V1.blocks) & set(
            rig.source.asked
        )
        assert rig.journal.latest()["digits"].why.startswith(ledger.HEALING) == (error is not RootMissing)

    play(tmp_path, scenario, Source([V1, V2]))


def test_what_was_refused_is_tried_again_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RETRY_S", 0.05)

    async def scenario(rig: Rig) -> None:
        rig.verifier.refuses = MetadataExpired("timestamp version 3 expired")
        rig.want((V1, "1.0.0"))
        await rig.settled()
        await until(rig, State.REJECTED)
        rig.verifier.refuses = None
        await asyncio.sleep(0.06)
        rig.manager.reconcile()  # as it does by itself every half minute
        await until(rig, State.SUCCEEDED)
        assert rig.verifier.asked == [("digits", "1.0.0", False)] * 2

    play(tmp_path, scenario, Source([V1]))


def test_without_a_root_nothing_is_tried_until_the_operator_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RETRY_S", 0.0)

    async def scenario(rig: Rig) -> None:
        rig.verifier.refuses = RootMissing("no [trust] root")
        rig.want((V1, "1.0.0"))
        await rig.settled()
        for _ in range(3):
            rig.manager.reconcile()
            await asyncio.sleep(0.02)
        assert len(rig.verifier.asked) == 1
        rig.verifier.refuses = None
        rig.want((V1, "1.0.0"))
        await until(rig, State.SUCCEEDED)

    play(tmp_path, scenario, Source([V1]))


@pytest.mark.parametrize(
    "error", [MetadataExpired("long ago"), StoreError("no space"), UnknownTarget("nobody")]
)
def test_expiry_never_keeps_a_node_from_going_back(tmp_path: Path, error: OverlaidError) -> None:
    async def scenario(rig: Rig) -> None:
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.want((V2, "1.1.0"))
        await rig.settled()
        rig.verifier.refuses = error
        for package, version in ((V1, "1.0.0"), (V2, "1.1.0"), (V2, "1.1.0")):
            rig.want((package, version), instances=1 + rig.revision % 2)
            status = await rig.settled()
            assert status is not None and status.state is State.SUCCEEDED, status
            assert rig.pool.routes["digits"].spec.version == version
        rig.want((V3, "1.2.0"))
        status = await rig.settled()
        assert status is not None and status.state.final and status.why.startswith(error.name)
        assert rig.pool.routes["digits"].spec.version == "1.1.0"

    play(tmp_path, scenario, Source([V1, V2, V3]))


def test_a_manifest_that_is_here_already_is_not_trusted_for_that(tmp_path: Path) -> None:
    """It stays of a deployment that failed later; meanwhile its key may have been taken away."""

    async def scenario(rig: Rig) -> None:
        rig.pool.dies_in_soak.add("1.1.0")
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED
        assert rig.store.manifest(V2.digest) == V2.encoded
        rig.verifier.refuses = UnknownTarget("nobody signed for it")
        rig.want((V2, "1.1.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.REJECTED and "UnknownTarget" in status.why

    play(tmp_path, scenario, Source([V1, V2]))


def test_a_folder_is_asked_for_its_own_metadata(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", V1)

    async def outcome(rig: Rig) -> State:
        deployment = rig.manager.deploy_local(folder, BUDGET)
        while not (done := rig.manager.outcome(deployment.id)) or not done.state.final:
            await asyncio.sleep(0.01)
        return done.state

    async def scenario(rig: Rig) -> None:
        await rig.manager.restored.wait()
        rig.verifier.refuses = MetadataExpired("long ago")
        assert await outcome(rig) is State.REJECTED
        rig.verifier.refuses = None
        assert await outcome(rig) is State.SUCCEEDED
        rig.verifier.refuses = MetadataExpired("long ago")
        assert await outcome(rig) is State.SUCCEEDED  # what is installed goes always
        assert rig.verifier.asked == [("digits", "1.0.0", True)] * 2

    play(tmp_path, scenario, Source([]))
