"""What journalctl is asked, and what is made of its answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import TelemetryError
from agent.logs import journalctl
from agent.logs.journalctl import SYSTEM_STATE, Daemon, access, arguments, logs_there, newest, parse
from agent.logs.rows import Wanted

OURS = Daemon(Path("/home/me/state"), 1000)
EVERYTHING = Wanted()


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A journalctl of the test's own."""
    path = folder / "journalctl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def matches(daemon: Daemon, wanted: Wanted = EVERYTHING) -> list[list[str]]:
    """The alternatives, each of which is a list of matches that all hold."""
    text = " ".join(word for word in arguments(daemon, wanted)[1:] if not word.startswith("-"))
    return [group.split() for group in text.split(" + ")]


def test_lines_count_that_the_daemon_s_user_wrote_for_its_folder() -> None:
    assert matches(OURS) == [["_UID=1000", "OVERLAID_STATE=/home/me/state"]]


def test_without_a_folder_nobody_s_lines_count(tmp_path: Path) -> None:
    nobody = Daemon.on(tmp_path / "none")
    assert nobody.uid is None and matches(nobody) == [["_PID=0"]]
    assert Daemon.on(tmp_path).uid == os.geteuid()


def test_of_the_service_also_what_systemd_says_counts() -> None:
    groups = matches(Daemon(SYSTEM_STATE, 990))
    assert ["_SYSTEMD_UNIT=overlaid.service"] in groups and ["_PID=1", "UNIT=overlaid.service"] in groups
    assert ["_UID=990", f"OVERLAID_STATE={SYSTEM_STATE}"] in groups


def test_what_lines_are_about_holds_in_each_alternative() -> None:
    groups = matches(Daemon(SYSTEM_STATE, None), Wanted(model="digits", deployment=3, device="cpu"))
    topic = ["OVERLAID_MODEL=digits", "OVERLAID_DEPLOYMENT=3", "OVERLAID_DEVICE=cpu"]
    assert groups and all(group[-3:] == topic for group in groups)
    assert not any("_PID=1" in group for group in groups)  # systemd does not say what a line is about


def test_the_newest_or_those_to_come_are_asked_for() -> None:
    wanted = Wanted(lines=7, since=1000.9)
    assert {"--reverse", "--lines=7", "--since=@1000"} <= set(arguments(OURS, wanted))
    after = arguments(OURS, wanted, "s=1")
    assert {"--follow", "--no-tail", "--after-cursor=s=1"} <= set(after) and "--since=@1000" not in after
    assert {"--follow", "--lines=0"} <= set(arguments(OURS, wanted, ""))


def test_a_line_is_a_row() -> None:
    entry = {
        "__REALTIME_TIMESTAMP": "1700000000500000",
        "__CURSOR": "s=1",
        "PRIORITY": "4",
        "MESSAGE": "late",
        "OVERLAID_ROOM": "deploy",
        "OVERLAID_MODEL": ["digits", "forged"],
        "OVERLAID_DEPLOYMENT": "3",
    }
    found = parse(json.dumps(entry).encode())
    assert found is not None
    row, cursor = found
    assert (row.time, row.level, row.room, row.text) == (1_700_000_000.5, "WARNING", "deploy", "late")
    assert (row.model, row.deployment, row.device, cursor) == ("digits", 3, None, "s=1")


def test_a_message_that_is_not_printable_comes_as_numbers() -> None:
    found = parse(json.dumps({"__REALTIME_TIMESTAMP": "1", "MESSAGE": list(b"a\x1b\xff")}).encode())
    assert found is not None and found[0].text == "a\x1b\ufffd"


entries = st.dictionaries(
    st.sampled_from(["__REALTIME_TIMESTAMP", "PRIORITY", "MESSAGE", "OVERLAID_DEPLOYMENT", "__CURSOR"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
)


@given(st.binary() | entries.map(lambda entry: json.dumps(entry).encode()))
def test_no_line_raises(line: bytes) -> None:
    parse(line)


def test_whether_the_journal_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = tmp_path / "journal" / "0123"
    monkeypatch.setenv("PATH", "/nowhere")
    assert access([machine.parent]) == "none"
    program(tmp_path, monkeypatch, "true")
    assert access([machine.parent]) == "none"
    machine.mkdir(parents=True)
    assert access([machine.parent]) == "none"
    (machine / "system.journal").touch()
    assert access([tmp_path / "none", machine.parent]) == "readable"
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: machine.parent not in Path(path).parents and allowed(path, mode)
    )
    assert access([machine.parent]) == "refused"


def test_rows_are_read_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        json.dumps({"__REALTIME_TIMESTAMP": str(n), "MESSAGE": str(n), "__CURSOR": f"c{n}"}) for n in (2, 1)
    ]
    program(tmp_path, monkeypatch, "\n".join(["cat << END", lines[0], "rubbish", lines[1], "END"]))
    rows, cursor = newest(OURS, Wanted())
    assert ([row.text for row in rows], cursor) == (["1", "2"], "c2")
    assert logs_there(OURS)


def test_why_journalctl_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo no disk >&2; exit 3")
    with pytest.raises(TelemetryError, match=r"ended with 3: no disk"):
        newest(OURS, Wanted())
    with pytest.raises(TelemetryError, match="run the command again"):
        list(journalctl.follow(OURS, Wanted(), ""))


def test_lines_are_followed_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"__REALTIME_TIMESTAMP": "1", "MESSAGE": "new"})
    program(tmp_path, monkeypatch, f"echo '{line}'; echo rubbish; exec sleep 60")
    rows = journalctl.follow(OURS, Wanted(), "")
    assert next(rows).text == "new"
    rows.close()  # type: ignore[attr-defined]
