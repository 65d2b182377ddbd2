"""What systemd says of a unit (systemctl(1) show; org.freedesktop.systemd1(5)). Any user may ask."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.paths import SYSTEM_CONFIG
from agent.setup.service import BOOTED

TIMEOUT_S = 10.0
PROPERTIES = (
    "LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "NRestarts", "ExecMainStatus", "ExecMainCode",
    "ExecMainStartTimestampMonotonic", "MemoryMax", "User", "ExecStart", "NeedDaemonReload", "StatusText",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """``load``, ``enabled``, ``active``, ``sub``, ``result``: systemd's words. ``exit_status``: of the main process,
    ``killed``: that is a signal's number. ``memory_max``: bytes. ``up_s``: since the main process started."""

    load: str = "not-found"
    enabled: str = ""
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    restarts: int = 0
    exit_status: int = 0
    killed: bool = False
    up_s: float | None = None
    memory_max: int | None = None
    user: str = "root"
    program: str = ""
    config: Path = SYSTEM_CONFIG
    needs_reload: bool = False
    text: str = ""


def ask(name: str, booted: Path = BOOTED) -> Unit | None:
    """None where systemd does not run, or does not answer."""
    if not booted.is_dir():
        return None
    command = ["systemctl", "show", name, f"--property={','.join(PROPERTIES)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return parse(dict(line.partition("=")[::2] for line in done.stdout.splitlines()), time.monotonic())


def parse(shown: Mapping[str, str], monotonic_s: float) -> Unit:
    """From ``systemctl show``'s properties; one that a version of systemd does not have counts as unset."""
    command = shown.get("ExecStart", "")
    program = re.search(r"path=(\S+)", command)
    config = re.search(r"--config[ =]([^\s;]+)", command)
    started_us = _number(shown.get("ExecMainStartTimestampMonotonic", ""))
    limit = _number(shown.get("MemoryMax", ""))
    return Unit(
        load=shown.get("LoadState", "not-found"),
        enabled=shown.get("UnitFileState", ""),
        active=shown.get("ActiveState", "inactive"),
        sub=shown.get("SubState", "dead"),
        result=shown.get("Result", "success"),
        restarts=_number(shown.get("NRestarts", "")) or 0,
        exit_status=_number(shown.get("ExecMainStatus", "")) or 0,
        killed=shown.get("ExecMainCode", "") in ("2", "3"),  # CLD_KILLED, CLD_DUMPED
        up_s=monotonic_s - started_us / 1e6 if started_us else None,
        memory_max=limit if limit is not None and limit < 1 << 62 else None,
        user=shown.get("User") or "root",
        program=program[1] if program else "",
        config=Path(config[1]) if config else SYSTEM_CONFIG,
        needs_reload=shown.get("NeedDaemonReload") == "yes",
        text=shown.get("StatusText", ""),
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None
