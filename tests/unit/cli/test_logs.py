"""``overlaid logs``: where it reads, and what it says when it cannot."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import TelemetryError
from agent.logs import journalctl
from agent.logs.rows import LogRow, Wanted
from agent.telemetry import queries
from agent.telemetry.writer import Telemetry
from tests.unit.cli.daemon import Folders

LINE = LogRow(1.0, "WARNING", "deploy", "late\x1b[31m\n  Traceback", "digits", 3, "cpu")


@pytest.fixture
def recorded(folders: Folders) -> Folders:
    """A node that recorded three events, the first two hours ago."""
    now = time.time() - 7200
    telemetry = Telemetry(folders.state / "telemetry.db", 8, clock=lambda: now)
    telemetry.event("started", "overlaid 0.1.0")
    now = time.time() - 5
    telemetry.event("worker-crashed", "signal 9", "digits")
    telemetry.event("worker-crashed", "signal 11", "kws")
    telemetry.close()
    return folders


@pytest.fixture
def no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journalctl, "access", lambda: "none")


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """A journal with one line of the daemon; what was wanted of it."""
    asked: list[Wanted] = []

    def newest(daemon: journalctl.Daemon, wanted: Wanted) -> tuple[list[LogRow], str]:
        asked.append(wanted)
        return ([LINE] if wanted.takes(LINE) else []), "c1"

    monkeypatch.setattr(journalctl, "access", lambda: "readable")
    monkeypatch.setattr(journalctl, "newest", newest)
    return asked


def test_the_journal_is_read_where_the_daemon_logs_there(
    recorded: Folders, overlaid: Any, journal: list[Wanted]
) -> None:
    code, out, err = overlaid(
        "logs", "--model", "digits", "--deployment", "3", "--device", "cpu", "--lines", "5"
    )
    assert (code, err) == (0, "") and journal == [Wanted(5, None, "digits", 3, "cpu")]
    first, second = out.splitlines()
    assert (
        "\x1b" not in out
        and first.endswith("WARNING deploy digits: late?[31m")
        and second.endswith("  Traceback")
    )
    assert json.loads(overlaid("logs", "--json")[1]) == LINE.to_json()
    assert overlaid("logs", "--model", "kws") == (0, "", "")  # not the events: it does log there


def test_elsewhere_the_events_are_read(recorded: Folders, overlaid: Any, no_journal: None) -> None:
    code, out, err = overlaid("logs", "--since", "1h")
    assert code == 0 and [line.split(" ", 2)[2] for line in out.splitlines()] == [
        "worker-crashed digits: signal 9",
        "worker-crashed kws: signal 11",
    ]
    assert err == "this daemon does not log to the journal; these are the events that it recorded:\n"
    (row,) = map(json.loads, overlaid("logs", "--json", "--model", "kws")[1].splitlines())
    assert (row["room"], row["text"], row["model"]) == ("worker-crashed", "signal 11", "kws")
    assert len(overlaid("logs", "--lines", "1")[1].splitlines()) == 1


def test_a_daemon_that_is_not_in_a_readable_journal_has_events(
    recorded: Folders, overlaid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journalctl, "access", lambda: "readable")
    monkeypatch.setattr(journalctl, "newest", lambda daemon, wanted: ([], ""))
    code, out, err = overlaid("logs")
    assert code == 0 and len(out.splitlines()) == 3 and "does not log to the journal" in err


def test_who_may_not_read_the_journal_is_told_how(
    recorded: Folders, overlaid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journalctl, "access", lambda: "refused")
    code, out, err = overlaid("logs")
    assert code == 0 and len(out.splitlines()) == 3 and "sudo usermod -aG systemd-journal" in err
    code, out, err = overlaid("logs", "--device", "cpu")
    assert code == 2 and out == "" and "need the journal" in err and "sudo usermod" in err


def test_what_is_in_no_event_needs_the_journal(recorded: Folders, overlaid: Any, no_journal: None) -> None:
    for option in (("--deployment", "3"), ("--device", "cpu")):
        code, _, err = overlaid("logs", *option)
        assert code == 2 and "need the journal" in err and "stderr" in err


def test_without_either_it_says_so(folders: Folders, overlaid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journalctl, "access", lambda: "refused")
    code, out, err = overlaid("logs")
    assert code == 1 and out == "" and "telemetry.db" in err and "systemd-journal" in err


@pytest.mark.parametrize("lines", ["0", "100001"])
def test_lines_are_bounded(overlaid: Any, lines: str) -> None:
    code, _, err = overlaid("logs", "--lines", lines)
    assert code == 2 and "1 to 100000" in err


def test_new_events_are_followed(recorded: Folders, overlaid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journalctl, "access", lambda: "none")
    looks = 0

    def look(path: Path, number: int, model: str | None = None) -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        if looks > 2:
            raise TelemetryError("it is gone")
        return found(path, number, model)

    found = queries.events_after
    monkeypatch.setattr(queries, "events_after", look)
    monkeypatch.setattr(time, "sleep", lambda seconds: _record(recorded, looks))
    code, out, err = overlaid("logs", "-f", "--lines", "1")
    assert code == 1 and err.endswith("it is gone\n")
    assert [line.rsplit(" ", 1)[1] for line in out.splitlines()] == ["11", "new0", "new1"]


def _record(folders: Folders, number: int) -> None:
    telemetry = Telemetry(folders.state / "telemetry.db", 8)
    telemetry.event("later", f"new{number}")
    telemetry.close()
