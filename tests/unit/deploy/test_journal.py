"""The journal: what was accepted stays accepted, across restarts."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agent.deploy import journal as journal_module
from agent.deploy.journal import Journal
from agent.errors import Replayed, StoreError
from agent.types import (
    Budget,
    Candidate,
    DesiredModel,
    DesiredState,
    Measurement,
    Phase,
    Placement,
    State,
    Verdict,
)

MODEL = DesiredModel("digits", "1.0.0", "a" * 64, Budget(20.0, 10.0, power_w=0.5))


def desired(revision: int, issued: float = 100.0, *models: DesiredModel) -> DesiredState:
    return DesiredState(revision, issued, 1e10, models, 3.0)


def test_desired_states_only_move_forward_and_survive_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    assert journal.accept_desired("lab/n1", desired(2, 100.0, MODEL))
    assert not journal.accept_desired("lab/n1", desired(2, 100.0, MODEL))
    with pytest.raises(Replayed, match="not newer than 2"):
        journal.accept_desired("lab/n1", desired(1))
    with pytest.raises(Replayed):
        journal.accept_desired("lab/n1", desired(2))  # the same number with other content
    journal.close()
    again = Journal(tmp_path / "state.db")
    assert again.desired() == {"lab/n1": desired(2, 100.0, MODEL)}
    with pytest.raises(Replayed):
        again.accept_desired("lab/n1", desired(1))
    again.close()


def test_command_sequences_only_grow_per_key_and_target(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    journal.accept_command("key", "lab/n1", 5, 1.0)
    journal.accept_command("key", "lab/group/a", 4, 1.0)
    journal.close()
    again = Journal(tmp_path / "state.db")
    for sequence in (5, 4):
        with pytest.raises(Replayed):
            again.accept_command("key", "lab/n1", sequence, 1.0)
    again.accept_command("key", "lab/n1", 6, 1.0)
    again.close()


def test_the_clock_never_goes_behind_what_a_message_proved(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db", clock=lambda: 0.0)  # a board that boots in 1970
    journal.accept_desired("lab/n1", desired(1, 1_800_000_000.0))
    assert journal.now() == 1_800_000_000.0
    journal.accept_command("key", "lab/n1", 1, 1_700_000_000.0)
    assert journal.now() == 1_800_000_000.0
    journal.close()


def test_a_clock_that_may_be_right_is_not_overruled_by_more_than_a_day(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    journal = Journal(tmp_path / "state.db", clock=lambda: now)
    journal.accept_command("key", "lab/n1", 1, now + 1e9)  # an operator whose clock is years ahead
    assert now < journal.now() <= now + 86_400
    journal.close()


def test_an_existing_journal_opens_on_a_full_disk(tmp_path: Path) -> None:
    """A reboot of a node whose disk is full must not stop the models that it has."""
    Journal(tmp_path / "state.db").close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    journal = Journal(tmp_path / "state.db")
    assert journal.desired() == {} and journal.unfinished() == []
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: data for name, data in after.items() if data} == before  # an empty file needs no space
    journal.close()


def test_an_orderly_stop_does_not_count_as_an_attempt(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    deployment = journal.queue("fleet", "lab/n1", 1, MODEL)
    assert journal.begin(deployment) == 1
    journal.forgive(deployment)
    assert journal.begin(deployment) == 1
    journal.close()


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    journal.accept_desired("lab/n1", desired(1))
    journal.close()
    raw = sqlite3.connect(tmp_path / "state.db")
    raw.execute("UPDATE desired SET state = '{}'")
    raw.commit()
    raw.close()
    again = Journal(tmp_path / "state.db")
    with pytest.raises(StoreError, match="damaged"):
        again.desired()
    again.close()


def test_deployments_are_found_open_after_a_kill_and_closed_after_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    first = journal.queue("fleet", "lab/n1", 1, MODEL)
    local = journal.queue("local", "local", 0, MODEL, tmp_path / "package")
    assert journal.begin(first) == 1
    journal.enter(first, Phase.PROFILING)
    journal.close()
    again = Journal(tmp_path / "state.db")
    found = again.unfinished()
    assert [(d.id, d.state, d.phase) for d in found] == [
        (first.id, State.IN_PROGRESS, Phase.PROFILING),
        (local.id, State.QUEUED, None),
    ]
    assert found[0].model == MODEL and found[1].folder == tmp_path / "package"
    assert again.begin(first) == 2
    again.finish(first, State.FAILED, "no")
    again.finish(local, State.SUCCEEDED, "")
    assert again.unfinished() == []
    assert again.latest()["digits"].id == local.id
    again.close()


def test_placements_round_trip_with_every_verdict(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    candidate = Candidate("int8", "onnxruntime", "cpu")
    measurement = Measurement(
        candidate, 500, 0.1, 0.1, 0.3, 0.99, 0.2, 30.0, 0.98, 0.001, "measured", max_batch=4, batch_gain=1.7
    )
    verdict = Verdict(candidate, True, "least energy", measurement)
    placement = Placement(
        "digits", "1.0.0", "a" * 64, MODEL.budget, candidate, "least energy", (verdict,), 5.0, 3
    )
    assert placement.max_batch == 4
    journal.save_placement("local", placement)
    placed = journal.placement("digits", "a" * 64)
    assert placed is not None and (placed.origin, placed.placement) == ("local", placement)
    journal.drop_placements("digits", {"a" * 64})
    assert journal.placement("digits", "a" * 64) is not None
    journal.drop_placements("digits", set())
    assert journal.placement("digits", "a" * 64) is None
    journal.close()


def test_a_journal_of_version_1_is_read_on(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "state.db")
    old.executescript(
        "CREATE TABLE deployments (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, target TEXT NOT NULL,"
        " revision INTEGER NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,"
        " budget TEXT NOT NULL, folder TEXT, state TEXT NOT NULL, phase TEXT, attempts INTEGER NOT NULL DEFAULT 0,"
        " why TEXT NOT NULL DEFAULT '', updated REAL NOT NULL);"
        "CREATE TABLE placements (model TEXT NOT NULL, digest TEXT NOT NULL, origin TEXT NOT NULL,"
        " placement TEXT NOT NULL, PRIMARY KEY (model, digest));"
        "PRAGMA user_version=1;"
    )
    budget = '{"latency_p99_ms": 20.0, "rate_hz": 10.0, "power_w": 0.5, "min_accuracy": null, "priority": 0}'
    old.execute(
        "INSERT INTO deployments (origin, target, revision, model, version, digest, budget, state, updated)"
        " VALUES ('fleet', 'lab/n1', 1, 'digits', '1.0.0', ?, ?, 'QUEUED', 5)",
        ("a" * 64, budget),
    )
    measured = (
        '{"candidate": {"variant": "v", "backend": "b", "device": "cpu"}, "runs": 9, "mean_ms": 1.0, "p50_ms": 1.0,'
        ' "p99_ms": 2.0, "confidence": 0.9, "load_s": 0.1, "memory_mb": 9.0, "accuracy": null}'
    )
    candidate = '{"variant": "v", "backend": "b", "device": "cpu"}'
    old.execute(
        "INSERT INTO placements VALUES ('digits', ?, 'fleet', ?)",
        (
            "a" * 64,
            f'{{"model": "digits", "version": "1.0.0", "digest": "{"a" * 64}", "budget": {budget}, "candidate":'
            f' {candidate}, "reason": "", "verdicts": [{{"candidate": {candidate}, "chosen": true, "reason": "",'
            f' "measurement": {measured}}}], "decided": 5.0}}',
        ),
    )
    old.commit()
    old.close()
    for _ in range(2):
        journal = Journal(tmp_path / "state.db")
        assert [deployment.model for deployment in journal.unfinished()] == [MODEL]
        placed = journal.placement("digits", "a" * 64)
        assert placed is not None and (placed.placement.instances, placed.placement.max_batch) == (1, 1)
        journal.close()


def test_a_newer_schema_and_a_file_that_is_no_database_are_refused_by_name(tmp_path: Path) -> None:
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(StoreError, match="newer overlaid") as refused:
        Journal(tmp_path / "newer.db")
    assert f"install that version again, or begin without its models: mv {tmp_path}" in str(refused.value)
    (tmp_path / "noise.db").write_bytes(b"noise" * 1000)
    with pytest.raises(StoreError, match=r"noise\.db"):
        Journal(tmp_path / "noise.db")


def test_history_is_bounded_but_keeps_what_is_open_and_each_models_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "HISTORY_ROWS", 5)
    journal = Journal(tmp_path / "state.db")
    other = DesiredModel("kws", "1.0.0", "b" * 64, MODEL.budget)
    canceled, still_open = (
        journal.queue("fleet", "lab/n1", 1, MODEL),
        journal.queue("fleet", "lab/n1", 1, other),
    )
    journal.finish(canceled, State.CANCELED, "")
    third = DesiredModel("vww", "1.0.0", "c" * 64, MODEL.budget)
    for revision in range(50):
        journal.finish(journal.queue("fleet", "lab/n1", revision, third), State.FAILED, "")
    assert journal.latest()["digits"].state is State.CANCELED
    assert [deployment.id for deployment in journal.unfinished()] == [still_open.id]
    assert journal.begin(still_open) == 1
    journal.close()
    raw = sqlite3.connect(tmp_path / "state.db")
    assert raw.execute("SELECT count(*) FROM deployments").fetchone()[0] <= 5 + 2 + 1
    raw.close()
