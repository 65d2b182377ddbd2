from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.devices.cpu import Proof
from agent.doctor import board, clock, examination, runtimes, service, unit
from agent.doctor.examination import AREAS, examine
from agent.doctor.finding import Finding, cause_and_cure, count, ok, problem, unknown, warning
from agent.doctor.service import Daemon
from agent.types import BoardInfo

MEND = "sudo sh -c 'a very long command that would be wrapped, were it a text for people, and could then not be copied'"
FOUND = [
    problem("clock", "the clock is wrong", "nobody set it", MEND),
    warning("clock", "it drifts", "slowly", "mend it"),
    unknown("disk", "the disk was not looked at", "no right to", "sudo x"),
    ok("disk", "fine"),
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the board and the runtimes, which take seconds."""
    monkeypatch.setattr(board, "look", lambda *_: board.Facts(BoardInfo("local", True, ())))
    monkeypatch.setattr(runtimes, "look", lambda *_: runtimes.Facts(Proof((), ()), {}))


def config(folder: Path) -> Path:
    path = folder / "agent.toml"
    path.write_text(f'[paths]\nstate = "{folder}/state"\nruntime = "{folder}/run"\n[serving]\nhttp = ""\n')
    path.chmod(0o600)
    return path


@pytest.mark.usefixtures("quick")
def test_areas_come_in_their_order_and_the_worst_first(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []

    found = examine(config(tmp_path), lambda text, share: told.append((text, share)))

    areas = [finding.area for finding in found]
    assert areas == sorted(areas, key=AREAS.index)
    assert {"configuration", "permissions", "service", "clock", "disk", "trust", "runtimes"} <= set(areas)
    assert told[-1] == ("", 1.0)


@pytest.mark.usefixtures("quick")
def test_a_check_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> clock.Facts:
        raise RuntimeError("of a kind that nobody thought of")

    monkeypatch.setattr(clock, "look", fail)

    found = examine(config(tmp_path), lambda *_: None)

    [broken] = [finding for finding in found if finding.area == "clock"]
    assert (broken.level, "nobody thought of" in broken.why) == ("unknown", True)
    assert any(finding.area == "disk" and finding.level == "ok" for finding in found)


@pytest.mark.usefixtures("quick")
def test_what_a_broken_configuration_hides_is_not_looked_at(tmp_path: Path) -> None:
    path = config(tmp_path)
    path.write_text("[mqtt]\n")

    areas = {finding.area for finding in examine(path, lambda *_: None)}

    assert {"configuration", "disk", "runtimes"} <= areas and not {"broker", "trust", "http"} & areas


@pytest.mark.usefixtures("quick")
def test_a_service_whose_configuration_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "etc/agent.toml"
    installed = unit.Unit("loaded", "enabled", "failed", config=missing, user="nobody")
    monkeypatch.setattr(unit, "ask", lambda _: installed)
    monkeypatch.setattr(service, "ask_daemon", lambda _: Daemon("down", "no daemon answers"))
    monkeypatch.setattr("agent.doctor.configuration.config_file", lambda *_: None)
    monkeypatch.delenv("OVERLAID_CONFIG", raising=False)

    found = [finding for finding in examine(None, lambda *_: None) if finding.level == "problem"]

    assert f"{missing} is not there" in [finding.what for finding in found]
    assert "the service failed" in [finding.what for finding in found]


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = main(["doctor", *options])
    return code, capsys.readouterr().out


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the examination finds; a test may change it."""
    findings = list(FOUND)
    monkeypatch.setattr(examination, "examine", lambda *_: findings)
    return findings


def test_people_see_what_is_not_fine(
    found: list[Finding], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out = run(capsys)

    assert code == 1
    assert out.splitlines()[:4] == [
        "clock",
        "  PROBLEM      the clock is wrong",
        "               nobody set it",
        f"               > {MEND}",  # in one line, whatever the width
    ]
    assert "fine" not in out.replace("1 checks are fine", "")
    assert "1 problem, 1 warning, 1 not checked; 1 checks are fine: overlaid doctor --all" in out
    assert "  ok           fine" in run(capsys, "--all")[1]


def test_scripts_see_everything(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "--json")

    answer: dict[str, Any] = json.loads(out)
    assert code == 1
    assert answer["counts"] == {"problem": 1, "warning": 1, "unknown": 1, "ok": 1}
    assert answer["findings"][0] == {
        "area": "clock", "level": "problem", "what": "the clock is wrong", "why": "nobody set it", "mend": MEND,
    }  # fmt: skip


def test_only_problems_make_it_fail(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    del found[0]
    assert run(capsys)[0] == 0
    found[:] = [ok("disk", "fine")]
    code, out = run(capsys)
    assert (code, "nothing is wrong" in out) == (0, True)


def test_texts_from_outside_do_not_steer_the_terminal(
    found: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    found[:] = [problem("broker", "it is for \x1b[31mred\nhost", "\x07", "x \x1b[0m")]

    out = run(capsys)[1]

    assert "\x1b" not in out and "\x07" not in out


def test_a_reason_is_split_where_its_cure_begins() -> None:
    assert cause_and_cure("a; b; c") == ("a", "b; c")
    assert cause_and_cure("a") == ("a", "")
    assert count([ok("a", "b")])["ok"] == 1
