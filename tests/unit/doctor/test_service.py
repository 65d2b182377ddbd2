from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.doctor.finding import Finding
from agent.doctor.service import Daemon, Facts, ask_daemon, judge, newest_error
from agent.doctor.unit import Unit
from agent.logs.rows import LogRow
from tests.unit.cli.daemon import SNAPSHOT, Folders, daemon
from tests.unit.doctor.nodes import node, only, wrong

UNIT = Unit(
    "loaded", "enabled", "active", "running", up_s=9000.0, memory_max=2048 << 20, user="overlaid",
    program="/opt/overlaid/bin/overlaid",
)  # fmt: skip
RUNNING = Daemon("running", snapshot={"pid": 42, "agent_version": "0.1.0"})
DOWN = Daemon("down", "no daemon answers on /run/overlaid/control.sock")


def facts(daemon: Daemon = RUNNING, *, more: dict[str, Any] | None = None, **unit: Any) -> Facts:
    return replace(Facts(replace(UNIT, **unit), daemon, "0.1.0", "/opt/overlaid"), **(more or {}))


def judged(tmp_path: Path, found: Facts, text: str = "") -> list[Finding]:
    return wrong(judge(found, node(tmp_path, text)))


def test_a_service_that_runs_is_fine(tmp_path: Path) -> None:
    assert not judged(tmp_path, facts())


@pytest.mark.parametrize(
    ("unit", "what", "mend"),
    [
        ({"active": "inactive", "sub": "dead"}, "stopped", "sudo systemctl start overlaid"),
        (
            {"load": "masked", "enabled": "masked", "active": "inactive"},
            "masked",
            "systemctl unmask overlaid",
        ),
        (
            {"active": "failed", "result": "exit-code", "exit_status": 1},
            "failed",
            "systemctl restart overlaid",
        ),
        ({"active": "active"}, "nothing answers", "systemctl restart overlaid"),
    ],
)
def test_a_service_that_does_not_run_is_a_problem(
    tmp_path: Path, unit: dict[str, Any], what: str, mend: str
) -> None:
    [found] = judged(tmp_path, facts(DOWN, **unit))

    assert found.level == "problem"
    assert what in found.what and mend in found.mend


def test_one_that_starts_is_no_problem_yet(tmp_path: Path) -> None:
    [found] = judged(tmp_path, facts(DOWN, active="activating", sub="start"))

    assert found.level == "warning"


def test_one_that_does_not_start_at_boot_is_a_warning(tmp_path: Path) -> None:
    [found] = judged(tmp_path, facts(enabled="disabled"))

    assert (found.level, found.mend) == ("warning", "sudo systemctl enable overlaid")


@pytest.mark.parametrize(
    ("unit", "why"),
    [
        ({"exit_status": 1, "result": "exit-code"}, "exit code 1; it said: ConfigError: x"),
        ({"exit_status": 203, "result": "exit-code"}, "cannot be executed"),
        ({"exit_status": 11, "killed": True, "result": "core-dump"}, "SIGSEGV"),
        ({"result": "watchdog", "exit_status": 6, "killed": True}, "watchdog"),
        ({"result": "oom-kill", "exit_status": 9, "killed": True}, "out of memory"),
        ({"result": "timeout"}, "in time"),
        ({}, "in its log"),
    ],
)
def test_a_loop_of_restarts_is_told_with_its_cause(tmp_path: Path, unit: dict[str, Any], why: str) -> None:
    words = {"last_words": "ConfigError: x"}
    looping = facts(DOWN, more=words, active="activating", sub="auto-restart", restarts=5, up_s=2.0, **unit)

    [found] = judged(tmp_path, looping)

    assert found.level == "problem" and "loop: 5 times" in found.what
    assert why in found.why and "journalctl" in found.mend


def test_one_that_was_restarted_long_ago_does_not_loop(tmp_path: Path) -> None:
    assert not judged(tmp_path, facts(restarts=7))
    [found] = judged(tmp_path, facts(restarts=7, up_s=20.0))
    assert found.level == "warning" and "7 times" in found.what


def test_units_that_cannot_start_are_told(tmp_path: Path) -> None:
    assert "service install" in only(judge(facts(more={"program_there": False}), node(tmp_path))).mend
    debian = facts(more={"program_there": False, "debian": True})
    assert "apt-get install --reinstall" in only(judge(debian, node(tmp_path))).mend
    assert "daemon-reload" in only(judge(facts(needs_reload=True), node(tmp_path))).mend
    assert "systemd-sysusers" in only(judge(facts(), node(tmp_path, user=None))).mend


def test_another_version_or_installation_is_told(tmp_path: Path) -> None:
    old = Daemon("running", snapshot={"pid": 42, "agent_version": "0.0.9"})
    [found] = judged(tmp_path, facts(old))
    assert "0.0.9 runs, 0.1.0 is installed" in found.what and "restart" in found.mend

    [found] = judged(tmp_path, facts(more={"elsewhere": True}))
    assert found.mend == "sudo /opt/overlaid/bin/overlaid doctor"


def test_a_limit_below_what_a_worker_may_have_is_told(tmp_path: Path) -> None:
    text = "[serving]\nworker_memory_mb = 1024\n"

    [found] = judged(tmp_path, facts(memory_max=512 << 20), text)

    assert found.level == "warning"
    assert "MemoryMax is 512 MiB" in found.what and "worker_memory_mb = 384" in found.mend
    assert "+2 " in found.mend
    assert not judged(tmp_path, facts(memory_max=1152 << 20), text)
    [found] = judged(tmp_path, facts(memory_max=None, more={"machine_bytes": 480 << 20}), text)
    assert "this machine's memory" in found.what


def test_without_systemd_a_daemon_that_is_down_is_a_problem(tmp_path: Path) -> None:
    nowhere = Facts(None, DOWN, "0.1.0", "/opt/overlaid")

    found = only(judge(nowhere, node(tmp_path, by_service=False)))

    assert found.level == "problem" and "overlaid run --config" in found.mend


def test_a_daemon_beside_the_service_is_told(tmp_path: Path) -> None:
    [found] = judged(tmp_path, facts(active="inactive", sub="dead"))

    assert "systemd did not start" in found.what and "kill 42" in found.mend


def test_the_control_socket_is_asked(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    socket = folders.runtime / "control.sock"
    assert ask_daemon(socket).state == "down"
    with daemon(folders, {"snapshot": SNAPSHOT}):
        answer = ask_daemon(socket)
    assert (answer.state, answer.snapshot["pid"]) == ("running", 42)


def test_a_socket_that_this_user_may_not_use_is_not_called_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", denied)
    answer = ask_daemon(tmp_path / "control.sock")

    assert answer.state == "refused"
    [found] = judged(tmp_path, facts(answer))
    assert found.level == "unknown" and "sudo" in found.mend


def test_a_daemon_that_is_silent_is_a_problem(tmp_path: Path) -> None:
    [found] = judged(tmp_path, facts(Daemon("silent", "the daemon did not answer within 5 s; see its log")))

    assert found.level == "problem" and "restart" in found.mend


def test_the_daemons_own_word_counts_more_than_systemds() -> None:
    rows = [
        LogRow(1.0, "INFO", "overlaid", "overlaid: ConfigError: node.sitee: unknown key"),
        LogRow(2.0, "ERROR", "systemd", "Failed to start overlaid.service"),
        LogRow(3.0, "INFO", "node", "started"),
    ]

    assert newest_error(rows) == "overlaid: ConfigError: node.sitee: unknown key"
    assert newest_error(rows[1:]) == "Failed to start overlaid.service"
    assert newest_error(rows[2:]) == ""
