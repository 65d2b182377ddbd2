from __future__ import annotations

from pathlib import Path

from agent.doctor.unit import Unit, ask, parse

# systemd 252: systemctl show overlaid.service --property=…
SHOWN = """\
ExecMainStartTimestampMonotonic=5000000
ExecMainCode=1
ExecMainStatus=78
NRestarts=4
MemoryMax=419430400
ExecStart={ path=/opt/overlaid/bin/overlaid ; argv[]=/opt/overlaid/bin/overlaid run --config /etc/overlaid/agent.toml \
; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
User=overlaid
LoadState=loaded
ActiveState=activating
SubState=auto-restart
UnitFileState=enabled
StatusText=2 models
NeedDaemonReload=yes
Result=exit-code
"""


def shown(text: str = SHOWN) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in text.splitlines())


def test_what_systemd_shows_is_understood() -> None:
    assert parse(shown(), monotonic_s=12.0) == Unit(
        load="loaded", enabled="enabled", active="activating", sub="auto-restart", result="exit-code", restarts=4,
        exit_status=78, killed=False, up_s=7.0, memory_max=400 << 20, user="overlaid",
        program="/opt/overlaid/bin/overlaid", config=Path("/etc/overlaid/agent.toml"), needs_reload=True,
        text="2 models",
    )  # fmt: skip


def test_no_limit_and_no_start_are_none() -> None:
    unit = parse(
        shown() | {"MemoryMax": "infinity", "ExecMainStartTimestampMonotonic": "0", "User": ""}, 12.0
    )

    assert (unit.memory_max, unit.up_s, unit.user) == (None, None, "root")
    assert parse(shown() | {"MemoryMax": "18446744073709551615"}, 12.0).memory_max is None


def test_an_end_by_a_signal_is_one() -> None:
    unit = parse(shown() | {"ExecMainCode": "2", "ExecMainStatus": "9"}, 12.0)

    assert (unit.killed, unit.exit_status) == (True, 9)


def test_where_systemd_does_not_run_there_is_no_unit(tmp_path: Path) -> None:
    assert ask("overlaid.service", tmp_path / "none") is None
    assert parse({}, 1.0) == Unit()
