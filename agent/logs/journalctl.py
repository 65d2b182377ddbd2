"""What the daemon wrote to systemd's journal, read by ``journalctl`` (its JSON: systemd's "Journal Export Formats").

Any user may write any field into the journal, except those that begin with an underscore: lines count as the daemon's
only with its user's id, which the journal itself adds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.errors import TelemetryError
from agent.logs.rows import LogRow, Wanted

UNITS = ("overlaid.service", "overlaid-fpga.service")
SYSTEM_STATE = Path("/var/lib/overlaid")  # of the unit
FOLDERS = (Path("/run/log/journal"), Path("/var/log/journal"))
MAX_LINE = 4 << 20  # bytes
_LEVELS = ("CRITICAL", "CRITICAL", "CRITICAL", "ERROR", "WARNING", "INFO", "INFO", "DEBUG")

Access = Literal["none", "refused", "readable"]


@dataclass(frozen=True, slots=True)
class Daemon:
    """Whose lines: of the daemon on this state folder, which belongs to ``uid`` (None: this user may not know)."""

    state: Path
    uid: int | None

    @classmethod
    def on(cls, state: Path) -> Daemon:
        try:
            return cls(state, state.stat().st_uid)
        except OSError:
            return cls(state, None)


def access(folders: Sequence[Path] = FOLDERS) -> Access:
    """Whether there is a journal on this machine that this user may read as a whole."""
    found: Access = "none"
    if shutil.which("journalctl") is None:
        return found
    for folder in folders:
        try:
            machines = [path for path in folder.iterdir() if path.is_dir()]
        except OSError as error:
            found = "refused" if isinstance(error, PermissionError) else found
            continue
        for machine in machines:
            if not os.access(machine, os.R_OK | os.X_OK):
                found = "refused"
                continue
            files = list(machine.glob("system*.journal"))
            if any(os.access(file, os.R_OK) for file in files):
                return "readable"
            found = "refused" if files else found
    return found


def arguments(daemon: Daemon, wanted: Wanted, after: str | None = None) -> list[str]:
    """``journalctl``'s: the newest lines first, or with ``after``, a cursor ("": from now on), those to come."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--all"]
    if after is None:
        command += ["--reverse", f"--lines={wanted.lines}"]
    else:
        command += (
            ["--follow", "--no-tail", f"--after-cursor={after}"] if after else ["--follow", "--lines=0"]
        )
    if wanted.since is not None and after is None:
        command.append(f"--since=@{int(wanted.since)}")
    return command + _matches(daemon, wanted)


def _matches(daemon: Daemon, wanted: Wanted) -> list[str]:
    topics = (("MODEL", wanted.model), ("DEPLOYMENT", wanted.deployment), ("DEVICE", wanted.device))
    about = [f"OVERLAID_{name}={value}" for name, value in topics if value is not None]
    groups = [] if daemon.uid is None else [[f"_UID={daemon.uid}", f"OVERLAID_STATE={daemon.state}"]]
    if daemon.state == SYSTEM_STATE:
        # Also what comes before its log is open, or from systemd itself about the unit: crashes, restarts.
        groups += [[f"_SYSTEMD_UNIT={unit}"] for unit in UNITS]
        groups += [] if about else [["_PID=1", f"UNIT={unit}"] for unit in UNITS]
    matches: list[str] = []
    for group in groups or [["_PID=0"]]:  # nobody's
        matches += [*(["+"] if matches else []), *group, *about]
    return matches


def parse(line: bytes) -> tuple[LogRow, str] | None:
    """A row and its cursor; None for a line that is none."""
    try:
        entry = json.loads(line)
        moment = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        priority = int(_text(entry, "PRIORITY") or 6)
        deployment = _text(entry, "OVERLAID_DEPLOYMENT")
        row = LogRow(
            moment,
            _LEVELS[min(max(priority, 0), 7)],
            _text(entry, "OVERLAID_ROOM") or _text(entry, "SYSLOG_IDENTIFIER"),
            _text(entry, "MESSAGE"),
            _text(entry, "OVERLAID_MODEL") or None,
            int(deployment) if deployment else None,
            _text(entry, "OVERLAID_DEVICE") or None,
        )
        return row, str(entry.get("__CURSOR", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _text(entry: dict[str, Any], name: str) -> str:
    """A field: a text, its bytes as numbers when it is not printable, or the first of several."""
    value = entry.get(name) or ""
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode(errors="replace")
        return str(value[0])
    return str(value)


def newest(daemon: Daemon, wanted: Wanted) -> tuple[list[LogRow], str]:
    """The newest rows that are wanted, oldest first, and the last one's cursor; TelemetryError."""
    done = subprocess.run(arguments(daemon, wanted), capture_output=True, timeout=60, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise TelemetryError(f"journalctl ended with {done.returncode}: {said or 'no reason given'}")
    found = [each for each in map(parse, done.stdout.splitlines()) if each is not None][::-1]
    return [row for row, _ in found], found[-1][1] if found else ""


def logs_there(daemon: Daemon) -> bool:
    """Whether the journal has anything of this daemon."""
    return bool(newest(daemon, Wanted(lines=1))[0])


def follow(daemon: Daemon, wanted: Wanted, cursor: str) -> Iterator[LogRow]:
    """Rows as they come, without end. TelemetryError when journalctl ends."""
    command = arguments(daemon, wanted, cursor)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            while line := process.stdout.readline(MAX_LINE):
                if (found := parse(line)) is not None:
                    yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
    raise TelemetryError(f"journalctl ended with {process.returncode}; run the command again")
