"""What a start decides about a deployment that was interrupted."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.deploy import standing
from agent.deploy.journal import Deployment, Journal
from agent.deploy.resuming import Ended, Resumption, decide
from agent.errors import SoakFailed, StoreError, Superseded
from agent.types import Budget, Candidate, DesiredModel, Phase, Placement, State
from tests.unit.deploy.rig import BUDGET, Rig, Source, StandInPool, make_package, play

MODEL = DesiredModel("digits", "1.1.0", "ab" * 32, BUDGET)
V1, V2, V3 = make_package("1.0.0"), make_package("1.1.0"), make_package("1.2.0")


def open_one(phase: Phase | None, why: str = "", number: int = 7) -> Deployment:
    return Deployment(number, "fleet", "lab/n1", 3, MODEL, State.IN_PROGRESS, phase, 1, why)


def placed(**changes: Any) -> Placement:
    here = Candidate("v", "onnxruntime", "cpu")
    return replace(
        Placement("digits", "1.1.0", MODEL.digest, BUDGET, here, "it is the only one", (), 1.0), **changes
    )


@pytest.mark.parametrize("phase", [None, *Phase])
def test_what_was_interrupted_goes_on_and_says_where(phase: Phase | None) -> None:
    found = decide(open_one(phase), open_one(phase), placed(digest="cd" * 32))
    assert isinstance(found, Resumption)
    assert (phase.value if phase else "first phase") in found.why


def test_what_was_committed_has_succeeded() -> None:
    for phase in (Phase.SOAKING, Phase.ACTIVATING):
        assert decide(open_one(phase), open_one(phase), placed()) == Ended(None, "it is the only one")
    assert isinstance(decide(open_one(Phase.PROFILING), open_one(Phase.PROFILING), placed()), Resumption)


@pytest.mark.parametrize("other", [{"budget": Budget(1.0, 1.0)}, {"instances": 3}, {"digest": "cd" * 32}])
def test_what_serves_for_another_wish_is_no_success(other: dict[str, Any]) -> None:
    assert isinstance(decide(open_one(Phase.SOAKING), open_one(Phase.SOAKING), placed(**other)), Resumption)


def test_what_was_rolled_back_has_failed_for_the_reason_why() -> None:
    one = open_one(Phase.ROLLING_BACK, "SoakFailed: the new worker died")
    found = decide(one, one, None)
    assert isinstance(found, Ended) and type(found.error) is SoakFailed and "died" in str(found.error)


def test_what_a_newer_one_followed_never_comes_back() -> None:
    found = decide(open_one(Phase.DOWNLOADING), open_one(None, number=8), None)
    assert isinstance(found, Ended) and type(found.error) is Superseded


def stay(rig: Rig) -> None:
    """As a kill -9: nothing is forgiven, nothing is written any more."""
    rig.journal.forgive = lambda deployment: None  # type: ignore[method-assign]
    rig.journal.standing.forgive = lambda: None  # type: ignore[method-assign]


def test_an_end_that_the_disk_refused_is_written_when_it_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.deploy.manager.REFUSED_S", 0.02)

    async def scenario(rig: Rig) -> None:
        finish, full = rig.journal.finish, True

        def refuse(*args: Any) -> None:
            if full:
                raise StoreError("no space left on device")
            finish(*args)

        rig.journal.finish = refuse  # type: ignore[method-assign,assignment]
        rig.want((V1, "1.0.0"))
        status = await rig.settled()
        assert status is not None and status.state is State.SUCCEEDED
        assert len(rig.journal.unfinished()) == 1
        full = False
        for _ in range(200):
            if not rig.journal.unfinished():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("never written")

    play(tmp_path, scenario, Source([V1]))


def test_a_deployment_of_the_past_does_not_undo_the_present(tmp_path: Path) -> None:
    """Its end could not be written, and a newer one succeeded: the next start leaves it alone."""

    async def first(rig: Rig) -> None:
        stay(rig)
        model = DesiredModel("digits", "1.0.0", V1.digest, BUDGET)
        rig.journal.queue("fleet", "lab/n1", 1, model)
        rig.want((V2, "1.1.0"))
        await rig.settled()

    async def second(rig: Rig) -> None:
        rig.revision = 1
        status = await rig.settled()
        assert status is not None and status.running_version == "1.1.0"
        assert rig.pool.started == 1 and rig.journal.unfinished() == []

    play(tmp_path, first, Source([V1, V2]))
    play(tmp_path, second, Source([V1, V2]))


def test_a_kill_between_commit_and_end_is_a_success_without_a_second_try(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        stay(rig)
        rig.journal.finish = lambda *_: None  # type: ignore[method-assign]
        rig.want((V1, "1.0.0"))
        await rig.settled()

    async def second(rig: Rig) -> None:
        rig.revision = 1
        status = await rig.settled()
        assert status is not None and status.state is State.SUCCEEDED and status.why
        assert rig.pool.started == 1 and rig.source.asked == []

    play(tmp_path, first, Source([V1]))
    play(tmp_path, second, Source([V1]))


def test_a_kill_in_the_roll_back_fails_with_the_reason(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        stay(rig)
        rig.want((V1, "1.0.0"))
        await rig.settled()
        rig.journal.finish = lambda *_: None  # type: ignore[method-assign]
        rig.pool.dies_in_soak.add("1.1.0")
        rig.want((V2, "1.1.0"))
        await rig.settled()

    async def second(rig: Rig) -> None:
        rig.revision = 2
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and status.running_version == "1.0.0"
        assert status.why.startswith("SoakFailed: ") and "died" in status.why

    play(tmp_path, first, Source([V1, V2]))
    play(tmp_path, second, Source([V1, V2]))


def test_a_version_of_which_the_daemon_dies_gives_way_to_the_one_before(tmp_path: Path) -> None:
    async def two(rig: Rig) -> None:
        stay(rig)
        for package, version in ((V1, "1.0.0"), (V2, "1.1.0")):
            rig.want((package, version))
            await rig.settled()

    async def dies(rig: Rig) -> None:
        stay(rig)
        await asyncio.wait_for(rig.manager.restored.wait(), 5)
        assert rig.pool.routes["digits"].spec.version == "1.1.0"

    async def after(rig: Rig) -> None:
        rig.revision = 2
        status = await rig.settled()
        assert status is not None and status.running_version == "1.0.0" and status.state is State.FAILED
        assert "ended 3 times" in status.why and status.version == "1.1.0"
        assert any(kind == "given-up" for kind, _ in rig.events())
        rig.want((V3, "1.2.0"))
        again = await rig.settled()
        assert again is not None and again.running_version == "1.2.0"

    play(tmp_path, two, Source([V1, V2]))
    for _ in range(standing.MAX_STARTS):
        play(tmp_path, dies, Source([V1, V2]))
    play(tmp_path, after, Source([V1, V2, V3]), StandInPool())
    play(tmp_path, lambda rig: settles_on(rig, "1.2.0"), Source([V1, V2, V3]))


async def settles_on(rig: Rig, version: str) -> None:
    rig.revision = 3
    status = await rig.settled()
    assert status is not None and status.running_version == version


def test_who_stayed_up_once_is_never_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "STAND_S", 0.0)

    async def two(rig: Rig) -> None:
        stay(rig)
        for package, version in ((V1, "1.0.0"), (V2, "1.1.0")):
            rig.want((package, version))
            await rig.settled()
        rig.manager.reconcile()
        await asyncio.sleep(0.05)

    async def dies(rig: Rig) -> None:
        stay(rig)
        await asyncio.wait_for(rig.manager.restored.wait(), 5)
        assert rig.pool.routes["digits"].spec.version == "1.1.0"

    play(tmp_path, two, Source([V1, V2]))
    for _ in range(standing.MAX_STARTS + 2):
        play(tmp_path, dies, Source([V1, V2]))


def test_orderly_stops_say_nothing_about_a_version(tmp_path: Path) -> None:
    async def two(rig: Rig) -> None:
        for package, version in ((V1, "1.0.0"), (V2, "1.1.0")):
            rig.want((package, version))
            await rig.settled()

    async def stops(rig: Rig) -> None:
        await asyncio.wait_for(rig.manager.restored.wait(), 5)
        assert rig.pool.routes["digits"].spec.version == "1.1.0"

    play(tmp_path, two, Source([V1, V2]))
    for _ in range(standing.MAX_STARTS + 2):
        play(tmp_path, stops, Source([V1, V2]))


def test_the_only_version_is_kept_whatever_happens(tmp_path: Path) -> None:
    async def one(rig: Rig) -> None:
        stay(rig)
        rig.want((V1, "1.0.0"))
        await rig.settled()

    async def dies(rig: Rig) -> None:
        stay(rig)
        await asyncio.wait_for(rig.manager.restored.wait(), 5)
        assert rig.pool.routes["digits"].spec.version == "1.0.0"

    play(tmp_path, one, Source([V1]))
    for _ in range(standing.MAX_STARTS + 2):
        play(tmp_path, dies, Source([V1]))


def test_a_journal_of_version_3_learns_of_standing(tmp_path: Path) -> None:
    Journal(tmp_path / "state.db").close()
    with sqlite3.connect(tmp_path / "state.db") as old:
        old.executescript("DROP TABLE standing; PRAGMA user_version=3")
    old.close()
    journal = Journal(tmp_path / "state.db")
    try:
        assert journal.standing.starting("digits", "ab" * 32)
    finally:
        journal.close()


def test_a_read_only_journal_is_read_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    journal = Journal(path)
    journal.queue("fleet", "lab/n1", 3, MODEL)
    real, refused = sqlite3.connect, True

    def connect(name: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        if refused and Path(str(name)) == path:
            raise sqlite3.OperationalError("unable to open database file")
        found: sqlite3.Connection = real(name, *args, **kwargs)
        return found

    journal.close()
    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr("agent.deploy.journal.LOOK_S", 0.0)
    again = Journal(path)
    try:
        assert "state.db" in again.problem
        assert [one.model for one in again.unfinished()] == [MODEL]
        with pytest.raises(StoreError, match="readonly"):
            again.queue("fleet", "lab/n1", 4, MODEL)
        refused = False
        assert again.queue("fleet", "lab/n1", 4, MODEL).id == 2 and not again.problem
    finally:
        again.close()
    kept = Journal(path)
    assert len(kept.unfinished()) == 2
    kept.close()


def test_what_the_last_process_had_no_time_to_clean_up_goes_at_the_start(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        stay(rig)
        rig.store.collect = lambda keep: 0  # type: ignore[method-assign]
        for package, version in ((V1, "1.0.0"), (V2, "1.1.0"), (V3, "1.2.0")):
            rig.want((package, version))
            await rig.settled()

    async def second(rig: Rig) -> None:
        assert len(list((tmp_path / "store/manifests").iterdir())) == 3
        rig.revision = 3
        await rig.settled()
        assert {path.stem for path in (tmp_path / "store/manifests").iterdir()} == {V2.digest, V3.digest}

    play(tmp_path, first, Source([V1, V2, V3]))
    play(tmp_path, second, Source([V1, V2, V3]))


def test_power_cuts_while_a_download_waits_are_no_reboot_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose power goes every evening before its download hours come."""
    monkeypatch.setattr("agent.deploy.attempt.STAND_S", 0.05)

    async def cut(rig: Rig) -> None:
        if not rig.journal.desired():
            rig.want((V1, "1.0.0"))
        rig.source.hold = asyncio.Event()
        await asyncio.sleep(0.3)
        stay(rig)

    async def at_last(rig: Rig) -> None:
        rig.revision = 1
        status = await rig.settled()
        assert status is not None and status.state is State.SUCCEEDED

    for _ in range(5):
        play(tmp_path, cut, Source([V1]))
    play(tmp_path, at_last, Source([V1]))


def test_a_deployment_that_kills_the_agent_after_a_long_download_still_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.deploy.attempt.STAND_S", 0.0)

    async def dies(rig: Rig) -> None:
        async def never(*_: object) -> None:
            stay(rig)
            await asyncio.Event().wait()

        rig.pool.start = never  # type: ignore[method-assign,assignment]
        if not rig.journal.desired():
            rig.want((V1, "1.0.0"))
        fetch = rig.source.fetch

        async def slow(*args: Any) -> None:
            await asyncio.sleep(0.05)
            await fetch(*args)

        rig.source.fetch = slow  # type: ignore[method-assign,assignment]
        await asyncio.sleep(0.4)

    async def ended(rig: Rig) -> None:
        rig.revision = 1
        status = await rig.settled()
        assert status is not None and status.state is State.FAILED and "stopped 3 times" in status.why

    for _ in range(3):
        play(tmp_path, dies, Source([V1]))
    play(tmp_path, ended, Source([V1]))
