from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from agent.deploy.journal import SCHEMA_VERSION, Journal
from agent.doctor.clock import Facts, judge, look, read_journal
from tests.unit.doctor.nodes import node, only, wrong

NOW = 1_790_000_000.0


def test_a_clock_that_is_kept_right_is_fine(tmp_path: Path) -> None:
    assert not wrong(judge(Facts(NOW, synchronised=True, floor=NOW - 60), node(tmp_path)))
    assert not wrong(judge(Facts(NOW), node(tmp_path)))  # the kernel may not tell


def test_a_clock_that_was_never_set_is_a_problem(tmp_path: Path) -> None:
    found = only(judge(Facts(86_400.0, synchronised=False), node(tmp_path)))

    assert found.level == "problem" and "1970-01-02" in found.what
    assert "timedatectl set-ntp true" in found.mend


def test_a_clock_behind_what_a_signed_message_proved_is_a_problem(tmp_path: Path) -> None:
    found = only(judge(Facts(NOW, synchronised=False, floor=NOW + 3600), node(tmp_path)))

    assert found.level == "problem" and "behind" in found.what
    # An operator's clock may be some minutes ahead.
    assert not wrong(judge(Facts(NOW, synchronised=True, floor=NOW + 200), node(tmp_path)))


def test_a_clock_that_nothing_keeps_right_is_a_warning(tmp_path: Path) -> None:
    found = only(judge(Facts(NOW, synchronised=False), node(tmp_path)))
    assert (found.level, found.mend) == ("warning", "sudo timedatectl set-ntp true")

    without = only(judge(Facts(NOW, synchronised=False, client=False), node(tmp_path)))
    assert "install systemd-timesyncd" in without.mend


def test_the_floor_is_read_beside_a_running_daemon_and_nothing_is_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db", clock=lambda: NOW)
    journal.raise_clock_floor(NOW + 100)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    found = look(tmp_path)

    assert (found.floor, found.schema) == (NOW + 100, SCHEMA_VERSION)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    journal.raise_clock_floor(NOW + 200)  # it still has its lock
    journal.close()
    assert read_journal(tmp_path / "state.db")[0] == NOW + 200


def test_a_journal_that_is_none_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(os.urandom(8192))

    assert read_journal(tmp_path / "state.db") == (None, None)
    assert read_journal(tmp_path / "none.db") == (None, None)
    assert abs(look(tmp_path).now - time.time()) < 3600


def test_a_state_of_a_newer_version_is_a_problem(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    schema = read_journal(tmp_path / "state.db")[1]

    found = only(judge(Facts(NOW, synchronised=True, schema=schema), node(tmp_path)))

    assert found.area == "service" and f"schema is {SCHEMA_VERSION + 1}" in found.why
    assert f".schema-{SCHEMA_VERSION + 1}" in found.mend
