"""What was measured is kept in the journal, within bounds, and only what makes sense is used."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.deploy import profiles
from agent.deploy.journal import Journal
from agent.errors import Replayed
from agent.placement.profile import OpenLoop, Profile
from agent.placement.profile.cache import Key
from agent.types import Candidate, Measurement, OverlayRef, to_jsonable

KEY = Key("a" * 64, "int8", "onnxruntime", "cpu", "onnxruntime 1.20", "kv260: A53", "15W", 1)
MEASURED = Measurement(
    KEY.candidate, 500, 1.1, 1.0, 1.5, 0.99, 0.2, 40.0, 0.98, 0.002, "measured", 0.1, 3.0, joules_sigma=1e-4,
    load_j=0.5, parts=(("cpu", 0.4), ("npu", 0.7)), overlay=OverlayRef("npu-small", 1, 8), measured=1e9,
)  # fmt: skip
PROFILE = Profile(MEASURED, OpenLoop(10.0, 5, 1.4, 0.05))


def change(path: Path, script: str, *values: str) -> None:
    """Somebody writes to a closed journal's file."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(script, values)
        db.commit()


def test_a_profile_survives_a_restart_and_is_replaced_by_a_newer_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    journal.profiles.keep("digits", KEY, PROFILE)
    journal.close()
    again = Journal(tmp_path / "state.db")
    assert again.profiles.of("digits") == [(KEY, PROFILE)]
    assert again.profiles.of("faces") == []
    newer, other = replace(PROFILE, open=None), replace(KEY, power_mode="7W")
    again.profiles.keep("digits", other, PROFILE)
    again.profiles.keep("digits", KEY, newer)
    assert again.profiles.of("digits") == [(other, PROFILE), (KEY, newer)]  # the newest last
    again.close()


def test_the_oldest_goes_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "MAX_ROWS", 3)
    journal = Journal(tmp_path / "state.db")
    keys = [replace(KEY, threads=number) for number in range(1, 6)]
    for key in keys:
        journal.profiles.keep("digits", key, PROFILE)
    journal.profiles.keep("digits", keys[2], PROFILE)  # now the newest
    journal.profiles.keep("faces", KEY, PROFILE)
    assert [key for key, _ in journal.profiles.of("digits")] == [keys[4], keys[2]]
    assert [key for key, _ in journal.profiles.of("faces")] == [KEY]
    journal.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value["closed"].update(mean_ms=float("nan")),
        lambda value: value["closed"].update(p99_ms=-1.0),
        lambda value: value["closed"].update(joules="much"),
        lambda value: value["closed"].pop("runs"),
        lambda value: value.update(
            open={"rate_hz": float("inf"), "runs": 1, "p99_ms": 1.0, "confidence": 0.1}
        ),
        lambda value: value["closed"].update(candidate=to_jsonable(Candidate("int8", "onnxruntime", "gpu"))),
    ],
)
def test_nonsense_in_the_file_is_not_used(tmp_path: Path, damage: object) -> None:
    journal = Journal(tmp_path / "state.db")
    journal.profiles.keep("digits", KEY, PROFILE)
    other = replace(KEY, threads=2)
    journal.profiles.keep("digits", other, PROFILE)
    journal.close()
    value = to_jsonable(PROFILE)
    assert callable(damage)
    damage(value)
    script = "UPDATE profiles SET profile = ? WHERE key = ?"
    change(tmp_path / "state.db", script, json.dumps(value), KEY.text())
    again = Journal(tmp_path / "state.db")
    assert again.profiles.of("digits") == [(other, PROFILE)]
    again.close()


@pytest.mark.parametrize("column", ["key", "profile"])
@pytest.mark.parametrize("text", ["", "{", "null", "[]", "\x00", "[" * 9000])
def test_what_cannot_be_read_is_not_used(tmp_path: Path, column: str, text: str) -> None:
    journal = Journal(tmp_path / "state.db")
    journal.profiles.keep("digits", KEY, PROFILE)
    journal.close()
    change(tmp_path / "state.db", f"UPDATE profiles SET {column} = ?", text)
    again = Journal(tmp_path / "state.db")
    assert again.profiles.of("digits") == []
    again.profiles.keep("digits", KEY, PROFILE)
    assert (KEY, PROFILE) in again.profiles.of("digits")
    again.close()


def test_a_journal_of_version_2_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    journal = Journal(path)
    journal.accept_command("key", "lab/n1", 5, 1.0)
    journal.close()
    change(path, "DROP TABLE profiles")
    change(path, "PRAGMA user_version=2")
    for _ in range(2):
        again = Journal(path)
        with pytest.raises(Replayed):
            again.accept_command("key", "lab/n1", 5, 1.0)
        again.profiles.keep("digits", KEY, PROFILE)
        assert again.profiles.of("digits") == [(KEY, PROFILE)]
        again.close()
